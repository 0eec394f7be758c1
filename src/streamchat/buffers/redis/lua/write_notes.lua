-- ARGV: now, then for each note: run, name, ttl in ms, "=body" or "" to remove it.
local at = tonumber(now())
for i = 2, #ARGV, 4 do
  local notes, member = key('notes', ARGV[i]), ARGV[i] .. '\0' .. ARGV[i + 1]
  if ARGV[i + 3] == '' then
    call('HDEL', notes, ARGV[i + 1])
    call('ZREM', base .. 'due', member)
  else
    local expires = int(at + tonumber(ARGV[i + 2]))
    call('HSET', notes, ARGV[i + 1], expires .. ARGV[i + 3])
    call('ZADD', base .. 'due', expires, member)
  end
end
return 1
