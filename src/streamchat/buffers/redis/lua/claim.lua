-- ARGV: now, token, worker, ttl in ms, length of a generation's first part, "=run" or "", versions.
local token, worker, ttl, part, named = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]

local function given(was, run)
  return {was, call('ZCARD', key('unread', run)), run, call('HGETALL', key('run', run))}
end

-- The same claim again: it was granted, and the answer lost.
local before = call('GET', key('claim', token))
if before then
  local was, run = string.match(before, '^(%a+) (.*)$')
  local found = call('HMGET', key('run', run), 'generation', 'owner')
  if found[1] and found[2] and string.sub(found[1], part + 1) == token then
    return given(was, run)
  end
  return false
end

local at = now()
local run, version
if named ~= '' then
  local id = string.sub(named, 2)
  local found = call('HMGET', key('run', id), 'version', 'number')
  for i = 7, #ARGV do
    if found[1] == ARGV[i] then
      local since = call('ZSCORE', key('queue', found[1]), queued(found[2], id))
      if since and tonumber(since) <= tonumber(at) then
        run, version = id, found[1]
      end
    end
  end
else
  local best_since, best
  for i = 7, #ARGV do
    local first = call('ZRANGEBYSCORE', key('queue', ARGV[i]), '-inf', at, 'WITHSCORES', 'LIMIT', 0, 1)
    -- Who is not stored any more is not to be had, and does not stand in the way.
    while first[1] and call('HEXISTS', key('run', string.sub(first[1], 18)), 'generation') == 0 do
      call('ZREM', key('queue', ARGV[i]), first[1])
      first = call('ZRANGEBYSCORE', key('queue', ARGV[i]), '-inf', at, 'WITHSCORES', 'LIMIT', 0, 1)
    end
    local since = tonumber(first[2])
    if since and (not best or since < best_since or (since == best_since and first[1] < best)) then
      best_since, best, version = since, first[1], ARGV[i]
    end
  end
  run = best and string.sub(best, 18)
end
if not run then
  return false
end

local name = key('run', run)
local found = call('HMGET', name, 'status', 'generation', 'head', 'number')
local generation = string.sub(found[2], 1, part) .. token
local lease_until = int(tonumber(at) + ttl)
call('RPUSH', key('segments', run), generation .. ' ' .. int(tonumber(found[3]) + 1))
call('HINCRBY', name, 'fence', 1)
call('HSET', name, 'status', 'running', 'owner', worker, 'lease_until', lease_until, 'generation', generation,
  'updated_at', at)
call('HDEL', name, 'wake_at')
call('ZADD', key('queue', version), lease_until, queued(found[4], run))
call('SET', key('claim', token), found[1] .. ' ' .. run, 'PX', 600000)
return given(found[1], run)
