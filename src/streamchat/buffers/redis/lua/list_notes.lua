-- ARGV: now, run.
return {now(), call('HGETALL', key('notes', ARGV[2]))}
