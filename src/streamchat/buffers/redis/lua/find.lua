-- ARGV: now, conversation. Its newest run that is not over.
for _, run in ipairs(call('ZREVRANGE', key('open', ARGV[2]), 0, -1)) do
  if call('HEXISTS', key('run', run), 'generation') == 1 then
    return {run, call('HGETALL', key('run', run))}
  end
end
return false
