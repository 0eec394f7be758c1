-- ARGV: now, conversation, whose list it was found on or "".
local conversation = ARGV[2]
local home = key('conversation', conversation)
local whose = call('HGET', home, 'whose')
if ARGV[3] ~= '' then
  call('ZREM', key('owner', ARGV[3]), conversation)
end
if not whose then
  return {}
end
local runs = call('ZRANGE', key('runs', conversation), 0, -1)
for _, run in ipairs(runs) do
  bury_run(run, conversation)
end
for _, message in ipairs(call('ZRANGE', key('order', conversation), 0, -1)) do
  call('UNLINK', key('message', message))
end
call('UNLINK', key('order', conversation), key('runs', conversation), key('open', conversation),
  key('line', conversation))
call('ZREM', key('owner', whose), conversation)
leave_tombstone(home, 'created_at')
return runs
