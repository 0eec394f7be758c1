-- ARGV: now, conversation, "=message" to go on behind or "", limit. In the order in which they were first written.
local conversation = ARGV[2]
if call('HEXISTS', key('conversation', conversation), 'whose') == 0 then
  return {'unknown'}
end
local order, behind = key('order', conversation), '-inf'
if ARGV[3] ~= '' then
  local number = call('ZSCORE', order, string.sub(ARGV[3], 2))
  if not number then
    return {'no_such_name'}
  end
  behind = '(' .. number
end
local found = {}
for _, message in ipairs(call('ZRANGEBYSCORE', order, behind, '+inf', 'LIMIT', 0, ARGV[4])) do
  found[#found + 1] = {message, call('HGETALL', key('message', message))}
end
return {'found', found}
