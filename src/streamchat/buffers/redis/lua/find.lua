-- ARGV: now, conversation. Its newest run that is neither over nor enqueued.
for _, run in ipairs(call('ZREVRANGE', key('open', ARGV[2]), 0, -1)) do
  local found = call('HMGET', key('run', run), 'generation', 'enqueued')
  if found[1] and not found[2] then
    return {run, call('HGETALL', key('run', run))}
  end
end
return false
