-- ARGV: now, slot of an idempotency key. The run that was made under it.
local known = call('GET', key('key', ARGV[2]))
if not known then
  return false
end
return {known, call('HGETALL', key('run', known))}
