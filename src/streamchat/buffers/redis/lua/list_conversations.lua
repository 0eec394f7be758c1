-- ARGV: now, whose, "=conversation" to go on behind or "", limit. The most recently changed comes first.
local list, start = key('owner', ARGV[2]), 0
if ARGV[3] ~= '' then
  local rank = call('ZREVRANK', list, string.sub(ARGV[3], 2))
  if not rank then
    return false
  end
  start = rank + 1
end
local found = {}
for _, conversation in ipairs(call('ZREVRANGE', list, start, start + tonumber(ARGV[4]) - 1)) do
  found[#found + 1] = {conversation, call('HGETALL', key('conversation', conversation))}
end
return found
