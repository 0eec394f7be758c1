-- ARGV: now, older than (ms), limit. A run without the field "whole" begins with its last batch: a trim is recorded by
-- taking the field away, because that needs no memory where there is none.
local found = call('ZRANGEBYSCORE', base .. 'ended', '-inf', '(' .. ARGV[2], 'LIMIT', 0, ARGV[3])
for _, run in ipairs(found) do
  local head = call('HGET', key('run', run), 'head')
  if head then
    call('HDEL', key('run', run), 'whole')
    call('XTRIM', key('log', run), 'MINID', '=', head .. '-0')
  end
  call('ZREM', base .. 'ended', run)
end
return #found
