-- What stays of a hash is one field: a tombstone, so that the id is never taken again.
local function leave_tombstone(name, kept)
  local fields = {}
  for _, field in ipairs(call('HKEYS', name)) do
    if field ~= kept then
      fields[#fields + 1] = field
    end
  end
  for i = 1, #fields, 100 do
    call('HDEL', name, unpack(fields, i, math.min(i + 99, #fields)))
  end
end

local function bury_run(run, conversation)
  local name = key('run', run)
  local found = call('HMGET', name, 'number', 'version', 'slot')
  call('ZREM', key('runs', conversation), run)
  call('ZREM', key('open', conversation), run)
  call('ZREM', key('line', conversation), run)
  call('ZREM', base .. 'ended', run)
  if found[1] and found[2] then
    call('ZREM', key('queue', found[2]), queued(found[1], run))
  end
  if found[3] and call('GET', key('key', found[3])) == run then
    call('DEL', key('key', found[3]))
  end
  for _, note in ipairs(call('HKEYS', key('notes', run))) do
    call('ZREM', base .. 'due', run .. '\0' .. note)
  end
  call('UNLINK', key('log', run), key('segments', run), key('inputs', run), key('unread', run), key('notes', run))
  leave_tombstone(name, 'number')
  tell(run)
end
