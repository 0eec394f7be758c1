-- ARGV: now, run, generation, head, number of events, packed events, then, status, wake_at or "", what becomes of
-- the slot ("free", "take" or ""), number of consumed inputs, their ids, messages.
local run, generation, head, count = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local mode = ARGV[7]
local name = key('run', run)
local found = call('HMGET', name, 'generation', 'head', 'owner', 'conversation')
if not found[1] then
  return {'unknown'}
end
local decision =
  decide(found[1], tonumber(found[2]), found[3] ~= false, generation, head, count, mode == 'hold')
if decision == 'lost' then
  return {'lost', found[1], found[2]}
end
local unread = call('ZCARD', key('unread', run))
if decision == 'recovered' then
  return {'recovered', unread, call('XRANGE', key('log', run), int(head + 1) .. '-0', '+')}
end

local consumed = tonumber(ARGV[11])
local messages = 12 + consumed
if consumed > 0 then
  for i = 12, 11 + consumed do
    if call('ZSCORE', key('unread', run), ARGV[i]) then
      unread = unread - 1
    end
  end
end
if mode == 'suspend' and unread > 0 then
  return {'pending', unread}
end
local conversation = found[4]
local rows = tonumber(ARGV[messages])
if rows > 0 then
  local wrong = misplaced(messages, conversation)
  if wrong then
    return wrong
  end
end

local at = now()
if count > 0 then
  local reached = int(head + count)
  -- Before all other writes: where the log is not as the run says, nothing is written.
  call('XADD', key('log', run), reached .. '-0', 'n', ARGV[5], 't', at, 'd', ARGV[6])
  call('HSET', name, 'head', reached, 'batch', int(head + 1), 'updated_at', at)
end
if rows > 0 then
  put_messages(messages, conversation, at)
  touch(conversation, at)
end
if mode ~= 'hold' then
  call('HSET', name, 'status', ARGV[8], 'updated_at', at)
  local more = call('HMGET', name, 'number', 'version')
  local queue, member = key('queue', more[2]), queued(more[1], run)
  if mode == 'queue' then
    call('ZADD', queue, at, member)
  elseif mode == 'suspend' and ARGV[9] ~= '' then
    call('HSET', name, 'wake_at', ARGV[9])
    call('ZADD', queue, ARGV[9], member)
  else
    call('ZREM', queue, member)
  end
  call('HDEL', name, 'owner', 'lease_until')
  if mode == 'over' then
    call('ZADD', base .. 'ended', at, run)
    call('ZREM', key('open', conversation), run)
  end
  touch(conversation, at)
  if ARGV[10] == 'free' then
    free_slot(conversation, run, at)
  elseif ARGV[10] == 'take' then
    take_slot(conversation, run)
  end
end
if consumed > 0 then
  call('ZREM', key('unread', run), unpack(ARGV, 12, 11 + consumed))
end
tell(run)
return {'written', unread, at}
