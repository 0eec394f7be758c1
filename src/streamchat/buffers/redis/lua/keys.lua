-- Names of keys, and the time. KEYS[1] is "{prefix}:"; ARGV[1] is the time in ms, or "" for the server's own.
local base = KEYS[1]
local call = redis.call

local function key(kind, id)
  return base .. kind .. ':' .. id
end

-- tostring() would write 1e+15 for large numbers.
local function int(number)
  return string.format('%.0f', number)
end

local function now()
  if ARGV[1] ~= '' then
    return ARGV[1]
  end
  local time = call('TIME')
  return time[1] .. string.format('%03d', math.floor(tonumber(time[2]) / 1000))
end

-- A run's name in a queue: of two that came in the same millisecond, the older run is the first.
local function queued(number, run)
  return string.format('%016d', tonumber(number)) .. ':' .. run
end

local function tell(run)
  call('PUBLISH', key('news', run), '')
end
