-- A change of a conversation brings it to the front of its owner's list.
local function touch(conversation, at)
  local name = key('conversation', conversation)
  local whose = call('HGET', name, 'whose')
  if whose then
    call('HSET', name, 'updated_at', at)
    call('ZADD', key('owner', whose), at, conversation)
  end
end

local function free_slot(conversation, run)
  local name = key('conversation', conversation)
  if call('HGET', name, 'active') == run then
    call('HDEL', name, 'active')
  end
end
