-- ARGV: now, whose, limit.
return call('ZRANGE', key('owner', ARGV[2]), 0, tonumber(ARGV[3]) - 1)
