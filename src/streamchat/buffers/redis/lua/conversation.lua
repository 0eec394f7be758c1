-- ARGV: now, conversation.
return call('HGETALL', key('conversation', ARGV[2]))
