-- ARGV: now, conversation, "=title" or "" for none.
local home = key('conversation', ARGV[2])
if call('HEXISTS', home, 'whose') == 0 then
  return 0
end
if ARGV[3] == '' then
  call('HDEL', home, 'title')
else
  call('HSET', home, 'title', string.sub(ARGV[3], 2))
end
return 1
