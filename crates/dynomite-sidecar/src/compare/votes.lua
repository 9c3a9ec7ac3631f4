-- Digest and expiry of as many of the keys as one call may take.
local found = { redis.call('TIME')[1] }
for _, key in ipairs(KEYS) do
  local is = digest(key)
  found[#found + 1] = is
  found[#found + 1] = is == '' and -1 or expiry(key)
  if work > 8192 then
    break
  end
end
return found
