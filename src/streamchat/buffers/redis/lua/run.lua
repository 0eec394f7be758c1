-- ARGV: now, run.
return call('HGETALL', key('run', ARGV[2]))
