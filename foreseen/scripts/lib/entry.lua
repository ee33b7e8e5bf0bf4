-- An entry: 39 bytes that scripts read and write, then a body (checksum and payload) that only Python looks into.
-- layout u8 (1), kind u8 ('R' result, 'F' failure), codec u8 (1), generation 8 bytes, order u64, written_ms u64,
-- fresh_until_ms u64, cost_us u32; big-endian.

local ENTRY_FORMAT = '>BBBc8I8I8I8I4'

local function pack_entry(kind, generation, order, now, fresh_ms, cost_us, body)
  return struct.pack(ENTRY_FORMAT, 1, string.byte(kind), 1, generation, order, now, now + fresh_ms, cost_us) .. body
end

-- The order of an entry of this generation, or nil: another generation, another layout and torn bytes are all a miss.
local function order_of(entry, generation)
  if entry and #entry > 39 and string.byte(entry, 1) == 1 and string.sub(entry, 4, 11) == generation then
    return (struct.unpack('>I8', entry, 12))
  end
end

local function is_result(entry)
  return string.byte(entry, 2) == 82
end
