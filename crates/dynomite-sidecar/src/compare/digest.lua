-- What a store has of a key, told without moving it: a digest of type and content that does
-- not depend on how the store encodes it, and the moment at which it expires.
local BYTES, ELEMENTS = 1048576, 4096
-- Elements and bytes are counted together, so that no call takes long.
local work = 0

local function sum(parts)
  return redis.sha1hex(table.concat(parts))
end

local function told(text)
  return #text .. ':' .. text
end

-- Adds up digests of elements that have no order.
local function unordered(elements, step)
  local a, b, whole = 0, 0, 2 ^ 48
  for i = 1, #elements, step do
    local text = told(elements[i])
    if step == 2 then
      text = text .. elements[i + 1]
    end
    local hex = redis.sha1hex(text)
    a = (a + tonumber(string.sub(hex, 1, 12), 16)) % whole
    b = (b + tonumber(string.sub(hex, 13, 24), 16)) % whole
  end
  return redis.sha1hex(string.format('%.0f %.0f %.0f', #elements, a, b))
end

local function ordered(elements)
  local parts = {}
  for i = 1, #elements do
    parts[i] = told(elements[i])
  end
  return sum(parts)
end

-- Servers write numbers in different ways.
local function number(text)
  local value = tonumber(text)
  return value and string.format('%.17g', value) or text
end

local lengths = { string = 'STRLEN', list = 'LLEN', set = 'SCARD', hash = 'HLEN', zset = 'ZCARD', stream = 'XLEN' }

local readers = {
  string = function(key)
    local value = redis.call('GET', key)
    if string.sub(value, 1, 4) == 'HYLL' then
      -- PFCOUNT keeps its last answer in these bytes.
      value = string.sub(value, 1, 8) .. string.sub(value, 17)
    end
    return redis.sha1hex(value)
  end,
  list = function(key) return ordered(redis.call('LRANGE', key, 0, -1)) end,
  set = function(key) return unordered(redis.call('SMEMBERS', key), 1) end,
  hash = function(key) return unordered(redis.call('HGETALL', key), 2) end,
  zset = function(key)
    local elements = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
    for i = 2, #elements, 2 do
      elements[i] = number(elements[i])
    end
    return ordered(elements)
  end,
  stream = function(key)
    local parts = {}
    for _, entry in ipairs(redis.call('XRANGE', key, '-', '+')) do
      parts[#parts + 1] = told(entry[1])
      parts[#parts + 1] = ordered(entry[2])
    end
    local info = redis.call('XINFO', 'STREAM', key)
    for i = 1, #info, 2 do
      if info[i] == 'last-generated-id' then
        parts[#parts + 1] = told(info[i + 1])
      end
    end
    for _, group in ipairs(redis.call('XINFO', 'GROUPS', key)) do
      for i = 1, #group, 2 do
        if group[i] == 'name' or group[i] == 'last-delivered-id' then
          parts[#parts + 1] = told(group[i + 1])
        end
      end
    end
    return sum(parts)
  end,
}

-- -1 when it never expires.
local function expiry(key)
  local left = redis.call('PTTL', key)
  if left < 0 then
    return -1
  end
  local exact = redis.pcall('PEXPIRETIME', key)
  if type(exact) == 'number' then
    return exact
  end
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000) + left
end

-- The digest; '' of no key, '?' of one that is not compared.
local function digest(key)
  local kind = redis.call('TYPE', key).ok
  work = work + 4
  if kind == 'none' then
    return ''
  end
  local reader = readers[kind]
  if not reader then
    return '?'
  end
  local length = redis.call(lengths[kind], key)
  if kind == 'string' then
    if length > BYTES then
      return '?'
    end
    work = work + length / 128
  else
    local memory = redis.pcall('MEMORY', 'USAGE', key)
    if type(memory) ~= 'number' then
      memory = 0
    end
    if length > ELEMENTS or memory > 2 * BYTES then
      return '?'
    end
    work = work + length * 2 + memory / 128
  end
  return kind .. ':' .. reader(key)
end

