-- ARGV: now, run, input, body, "=by" or "", nonce of this post.
local run, input = ARGV[2], ARGV[3]
local name = key('run', run)
local found = call('HMGET', name, 'generation', 'status', 'number', 'version', 'conversation', 'enqueued')
if not found[1] then
  return {'unknown'}
end
local inputs = key('inputs', run)
local before = call('HMGET', inputs, 'body:' .. input, 'nonce:' .. input)
if before[1] then
  return {'before', before[1], before[2], call('HGETALL', name)}
end
local status = found[2]
if status ~= 'queued' and status ~= 'running' and status ~= 'suspended' then
  return {'over', status}
end
local at = now()
call('HSET', inputs, 'body:' .. input, ARGV[4], 'at:' .. input, at, 'nonce:' .. input, ARGV[6])
if ARGV[5] ~= '' then
  call('HSET', inputs, 'by:' .. input, string.sub(ARGV[5], 2))
end
call('ZADD', key('unread', run), int(call('HINCRBY', name, 'posted', 1)), input)
call('HSET', name, 'updated_at', at)
-- streamchat.core.append_rule.wakes
local to_be_ended = found[6] and string.sub(input, 1, 7) == 'cancel:'
if to_be_ended then
  leave_line(found[5], run)
end
if status == 'suspended' or to_be_ended then
  call('HSET', name, 'status', 'queued')
  call('HDEL', name, 'wake_at')
  call('ZADD', key('queue', found[4]), at, queued(found[3], run))
end
tell(run)
return {'posted', call('HGETALL', name)}
