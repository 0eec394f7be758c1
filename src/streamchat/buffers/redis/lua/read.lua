-- ARGV: now, run, after, limit in events, limit in bytes. An entry's id is the seq of its last event, so the first
-- entry from after + 1 on is the one that holds that event.
local run, after, limit, most = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local found = call('HMGET', key('run', run), 'generation', 'head', 'batch', 'whole')
if not found[1] then
  return false
end
local entries, bytes, reached, head = {}, 0, after, tonumber(found[2])
-- Few at first: each may be megabytes.
local count = 1
while reached < head and reached < after + limit and bytes < most do
  local some = call('XRANGE', key('log', run), int(reached + 1) .. '-0', found[2] .. '-0', 'COUNT', count)
  for _, entry in ipairs(some) do
    if reached < after + limit and bytes < most then
      entries[#entries + 1] = entry
      bytes = bytes + #entry[2][6]
      reached = tonumber(string.match(entry[1], '^%d+'))
    end
  end
  if #some < count then
    break
  end
  count = math.min(count * 2, 64)
end
return {found[2], found[4] and '1' or found[3], call('LRANGE', key('segments', run), 0, -1), entries}
