-- ARGV: now, run. Its messages go with it.
local run = ARGV[2]
local conversation = call('HGET', key('run', run), 'conversation')
if not conversation then
  return 0
end
local home = key('conversation', conversation)
local doomed, leaf = {}, nil
for _, message in ipairs(call('ZRANGE', key('order', conversation), 0, -1)) do
  if call('HGET', key('message', message), 'run') == run then
    doomed[#doomed + 1] = message
  else
    leaf = message
  end
end
-- First what frees memory: a full server refuses a script whose first write needs some, and none after that.
bury_run(run, conversation)
for _, message in ipairs(doomed) do
  call('UNLINK', key('message', message))
  call('ZREM', key('order', conversation), message)
end
if call('HEXISTS', home, 'whose') == 1 then
  local at = now()
  touch(conversation, at)
  if leaf then
    call('HSET', home, 'leaf', leaf)
  else
    call('HDEL', home, 'leaf')
  end
  free_slot(conversation, run, at)
end
return 1
