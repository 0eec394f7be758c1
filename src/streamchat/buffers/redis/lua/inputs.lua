-- ARGV: now, run. What was not consumed yet, oldest first.
local run = ARGV[2]
if call('HEXISTS', key('run', run), 'generation') == 0 then
  return false
end
local found = {}
for _, input in ipairs(call('ZRANGE', key('unread', run), 0, -1)) do
  local stored = call('HMGET', key('inputs', run), 'body:' .. input, 'at:' .. input, 'by:' .. input)
  if stored[1] then
    found[#found + 1] = {input, stored[1], stored[2], stored[3]}
  end
end
return found
