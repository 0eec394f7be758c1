-- Message rows among the arguments: their number at ARGV[i]; for each its id, its conversation, the number of items,
-- the items (field, value, ...). A message is a hash, and its place in the conversation a number in "order:".
local function each_message(i, visit)
  local count = tonumber(ARGV[i])
  i = i + 1
  for _ = 1, count do
    local items = tonumber(ARGV[i + 2])
    visit(ARGV[i], ARGV[i + 1], i + 3, i + 2 + items)
    i = i + 3 + items
  end
end

-- Return what is wrong with the rows of a run in this conversation, or nil.
local function misplaced(i, conversation)
  local elsewhere, theirs
  each_message(i, function(id, home)
    if home ~= conversation then
      elsewhere = {'elsewhere', conversation}
    else
      local stored = call('HGET', key('message', id), 'home')
      if stored and stored ~= conversation then
        theirs = theirs or {'message_taken', id}
      end
    end
  end)
  return elsewhere or theirs
end

local function put_messages(i, conversation, at)
  each_message(i, function(id, _, from, to)
    local name = key('message', id)
    local stored = call('HMGET', name, 'at', 'parent')
    local created = stored[1]
    if not created then
      created = at
      call('ZADD', key('order', conversation), int(call('INCR', base .. 'number')), id)
    end
    call('HSET', name, 'home', conversation, 'at', created, unpack(ARGV, from, to))
    local given = {}
    for field = from, to, 2 do
      given[ARGV[field]] = true
    end
    for _, optional in ipairs({'run', 'parent', 'private'}) do
      if not given[optional] then
        call('HDEL', name, optional)
      end
    end
    -- Where it stands in the tree, it stays.
    if stored[1] and stored[2] then
      call('HSET', name, 'parent', stored[2])
    elseif stored[1] then
      call('HDEL', name, 'parent')
    end
  end)
end
