-- ARGV: now, run, generation, head, ttl in ms.
local run = ARGV[2]
local name = key('run', run)
local found = call('HMGET', name, 'generation', 'head', 'owner', 'number', 'version')
if not found[1] then
  return {'unknown'}
end
if decide(found[1], tonumber(found[2]), found[3] ~= false, ARGV[3], tonumber(ARGV[4]), 0, true) ~= 'write' then
  return {'lost', found[1], found[2]}
end
local lease_until = int(tonumber(now()) + tonumber(ARGV[5]))
call('HSET', name, 'lease_until', lease_until)
call('ZADD', key('queue', found[5]), lease_until, queued(found[4], run))
return {'renewed', call('ZCARD', key('unread', run)), lease_until}
