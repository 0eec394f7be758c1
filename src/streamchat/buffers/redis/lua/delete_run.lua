-- ARGV: now, run. Its messages go with it.
local run = ARGV[2]
local conversation = call('HGET', key('run', run), 'conversation')
if not conversation then
  return 0
end
local home = key('conversation', conversation)
local doomed, before, leaf = {}, {}, nil
local rest = {}
for _, message in ipairs(call('ZRANGE', key('order', conversation), 0, -1)) do
  local found = call('HMGET', key('message', message), 'run', 'parent')
  if found[1] == run then
    doomed[#doomed + 1] = message
    before[message] = found[2] or ''
  else
    leaf = message
    rest[#rest + 1] = {message, found[2]}
  end
end
-- First what frees memory: a full server refuses a script whose first write needs some, and none after that.
bury_run(run, conversation)
for _, message in ipairs(doomed) do
  call('UNLINK', key('message', message))
  call('ZREM', key('order', conversation), message)
end
-- streamchat.buffers.shared.kept_ancestors
for _, one in ipairs(rest) do
  local at, steps = one[2], 0
  while at and before[at] and steps <= #doomed do
    at, steps = before[at], steps + 1
  end
  if steps > #doomed or at == '' then
    call('HDEL', key('message', one[1]), 'parent')
  elseif steps > 0 then
    call('HSET', key('message', one[1]), 'parent', at)
  end
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
