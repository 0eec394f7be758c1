-- ARGV: now, conversation. Its runs that wait for the slot, the next one first.
local found = {}
for _, run in ipairs(call('ZRANGE', key('line', ARGV[2]), 0, -1)) do
  found[#found + 1] = {run, call('HGETALL', key('run', run))}
end
return found
