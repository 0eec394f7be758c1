-- ARGV: now, limit. Those that expired first come first.
local at = now()
local found = {}
for _, member in ipairs(call('ZRANGEBYSCORE', base .. 'due', '-inf', at, 'LIMIT', 0, ARGV[2])) do
  local run, name = string.match(member, '^(.*)%z(.-)$')
  local note = call('HGET', key('notes', run), name)
  if note then
    found[#found + 1] = {run, name, note}
  end
end
return {at, found}
