-- ARGV: now, run, conversation, slot or "", digest, whose, generation, version, number of events, packed events,
-- leaf, "1" if it may be enqueued, "=leaf" that its messages follow or "", "=run" that it retries or "", number of the
-- run's items, items, number of the conversation's items, items, messages.
local run, conversation, slot, digest, whose = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local generation, version, count, packed, leaf = ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11]
local enqueue, follows, parent = ARGV[12] == '1', ARGV[13], ARGV[14]
local run_from = 16
local run_to = 15 + tonumber(ARGV[15])
local conversation_from = run_to + 2
local conversation_to = run_to + 1 + tonumber(ARGV[run_to + 1])
local messages = conversation_to + 1

local function made(word, id)
  return {word, call('HGETALL', key('run', id)), call('LINDEX', key('segments', id), 0), id}
end

if slot ~= '' then
  local known = call('GET', key('key', slot))
  if known then
    local found = call('HMGET', key('run', known), 'generation', 'digest')
    if found[1] then
      if found[2] ~= digest then
        return {'key_used', known}
      end
      return made('known', known)
    end
  end
end
local name = key('run', run)
if call('HEXISTS', name, 'generation') == 1 then
  return made('same_id', run)
end
if call('EXISTS', name) == 1 then
  return {'run_taken'}
end
local home = key('conversation', conversation)
local found = call('HMGET', home, 'whose', 'active', 'leaf')
local busy = false
if found[1] then
  if found[1] ~= whose then
    return {'foreign'}
  end
  -- streamchat.core.append_rule.decide_entrance
  busy = found[2] and call('HEXISTS', key('run', found[2]), 'generation') == 1
  if busy and not enqueue then
    return {'busy', found[2]}
  end
elseif call('EXISTS', home) == 1 then
  return {'deleted'}
end
if follows ~= '' and string.sub(follows, 2) ~= (found[3] or '') then
  return {'moved'}
end
local wrong = misplaced(messages, conversation)
if wrong then
  return wrong
end
local answer
if parent ~= '' then
  parent = string.sub(parent, 2)
  local retried = key('run', parent)
  answer = call('HGET', retried, 'message')
  if not answer and call('EXISTS', retried) == 1 then
    return {'parent_deleted', parent}
  end
  answer = answer and call('HMGET', key('message', answer), 'home', 'parent')
end

local at = now()
local left = {key('log', run), key('segments', run), key('inputs', run), key('unread', run)}
if call('EXISTS', unpack(left)) > 0 then
  -- It belongs to a run that the server has lost.
  call('UNLINK', unpack(left))
end
call('XADD', key('log', run), count .. '-0', 'n', count, 't', at, 'd', packed)
call('RPUSH', key('segments', run), generation .. ' 1')
local number = int(call('INCR', base .. 'number'))
call('HSET', name, 'number', number, 'generation', generation, 'version', version, 'conversation', conversation,
  'status', 'queued', 'head', count, 'batch', '1', 'whole', '1', 'fence', '0', 'posted', '0',
  'created_at', at, 'updated_at', at, unpack(ARGV, run_from, run_to))
if busy then
  call('HSET', name, 'enqueued', '1')
  call('ZADD', key('line', conversation), number, run)
else
  call('ZADD', key('queue', version), at, queued(number, run))
end
call('ZADD', key('runs', conversation), number, run)
call('ZADD', key('open', conversation), number, run)
if slot ~= '' then
  call('HSET', name, 'slot', slot, 'digest', digest)
  call('SET', key('key', slot), run)
end
if not found[1] then
  call('HSET', home, 'whose', whose, 'created_at', at)
  if conversation_to >= conversation_from then
    call('HSET', home, unpack(ARGV, conversation_from, conversation_to))
  end
end
call('HSET', home, 'active', busy and found[2] or run, 'leaf', leaf)
touch(conversation, at)
put_messages(messages, conversation, at)
if answer and answer[1] == conversation and call('EXISTS', key('message', leaf)) == 1 then
  if answer[2] then
    call('HSET', key('message', leaf), 'parent', answer[2])
  else
    call('HDEL', key('message', leaf), 'parent')
  end
end
tell(run)
return made('new', run)
