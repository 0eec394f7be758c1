-- ARGV: now, runs. What changes with every append and post.
local heads = {}
for i = 2, #ARGV do
  local found = call('HMGET', key('run', ARGV[i]), 'head', 'posted', 'status')
  heads[#heads + 1] = (found[1] or '') .. ' ' .. (found[2] or '') .. ' ' .. (found[3] or '')
end
return heads
