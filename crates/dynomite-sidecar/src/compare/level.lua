-- Gives the key another value, or none, if it still is what it was.
local is = digest(KEYS[1])
local expires = is == '' and -1 or expiry(KEYS[1])
if is ~= ARGV[1] or math.abs(expires - tonumber(ARGV[2])) >= 10 then
  return 0
end
if ARGV[3] == '' then
  redis.call('DEL', KEYS[1])
elseif ARGV[4] == '-1' then
  redis.call('RESTORE', KEYS[1], 0, ARGV[3], 'REPLACE')
else
  redis.call('RESTORE', KEYS[1], ARGV[4], ARGV[3], 'REPLACE', 'ABSTTL')
end
return 1
