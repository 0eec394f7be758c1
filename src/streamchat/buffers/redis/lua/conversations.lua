-- A change of a conversation brings it to the front of its owner's list.
local function touch(conversation, at)
  local name = key('conversation', conversation)
  local whose = call('HGET', name, 'whose')
  if whose then
    call('HSET', name, 'updated_at', at)
    call('ZADD', key('owner', whose), at, conversation)
  end
end

local function leave_line(conversation, run)
  call('ZREM', key('line', conversation), run)
  call('HDEL', key('run', run), 'enqueued')
end

-- The slot goes on to the oldest run that waits in the conversation's line.
local function free_slot(conversation, run, at)
  local name = key('conversation', conversation)
  if call('HGET', name, 'active') ~= run then
    return
  end
  call('HDEL', name, 'active')
  local following = call('ZRANGE', key('line', conversation), 0, 0)[1]
  if following then
    local found = call('HMGET', key('run', following), 'number', 'version')
    leave_line(conversation, following)
    call('ZADD', key('queue', found[2]), at, queued(found[1], following))
    call('HSET', name, 'active', following)
  end
end

-- One whose run the server has lost holds nothing.
local function take_slot(conversation, run)
  local name = key('conversation', conversation)
  local found = call('HMGET', name, 'whose', 'active')
  if found[1] and not (found[2] and call('HEXISTS', key('run', found[2]), 'generation') == 1) then
    call('HSET', name, 'active', run)
  end
end
