-- ARGV: now, then for each note: run, name, expires_at.
local gone = 0
for i = 2, #ARGV, 3 do
  local notes = key('notes', ARGV[i])
  local note = call('HGET', notes, ARGV[i + 1])
  if note and string.match(note, '^%d+') == ARGV[i + 2] then
    call('HDEL', notes, ARGV[i + 1])
    call('ZREM', base .. 'due', ARGV[i] .. '\0' .. ARGV[i + 1])
    gone = gone + 1
  end
end
return gone
