-- The key as it can be given to another store, if it still is what it was.
if digest(KEYS[1]) == ARGV[1] and math.abs(expiry(KEYS[1]) - tonumber(ARGV[2])) < 10 then
  return redis.call('DUMP', KEYS[1])
end
return false
