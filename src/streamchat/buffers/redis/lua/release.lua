-- ARGV: now, token, length of a generation's first part. Queues the run that a claim with this token took, if that
-- is still so and nothing was appended: nobody got the answer to that claim.
local before = call('GET', key('claim', ARGV[2]))
if not before then
  return 0
end
local run = string.match(before, '^%a+ (.*)$')
local name = key('run', run)
local found = call('HMGET', name, 'generation', 'owner', 'number', 'version', 'conversation')
if not (found[1] and found[2] and string.sub(found[1], tonumber(ARGV[3]) + 1) == ARGV[2]) then
  return 0
end
local at = now()
call('HSET', name, 'status', 'queued', 'updated_at', at)
call('HDEL', name, 'owner', 'lease_until')
call('ZADD', key('queue', found[4]), at, queued(found[3], run))
touch(found[5], at)
tell(run)
return 1
