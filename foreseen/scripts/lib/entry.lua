-- An entry: 39 or 51 bytes that scripts read and write, then a body (checksum and payload) that only Python looks into.
-- layout u8 (1, 2), kind u8 ('R' result, 'F' failure), codec u8 (1, 2 = compressed), generation 8 bytes, order u64, written_ms u64,
-- fresh_until_ms u64, cost_us u32; big-endian. Layout 2, of one that is refreshed, goes on: early_ms u32, how early, on the
-- scale of the XFetch rule; held_until_ms u64, no refresh before, since one has just failed.

local ENTRY_FORMAT = '>BBBc8I8I8I8I4'
local HELD_UNTIL = 43                                    -- where that stands, counted from 0

local function pack_entry(kind, codec, generation, order, now, fresh_ms, stale_ms, early_ms, cost_us, body)
  local refreshed = stale_ms > 0 or early_ms > 0
  local header = struct.pack(ENTRY_FORMAT, refreshed and 2 or 1, string.byte(kind), codec, generation, order, now, now + fresh_ms, cost_us)
  if refreshed then header = header .. struct.pack('>I4I8', early_ms, 0) end
  return header .. body
end

local function is_refreshed(entry)
  return string.byte(entry) == 2
end

-- The order of an entry of this generation, or nil: another generation, another layout and torn bytes are all a miss.
local function order_of(entry, generation)
  if entry and #entry > 39 and string.byte(entry) <= 2 and string.sub(entry, 4, 11) == generation then
    return (struct.unpack('>I8', entry, 12))
  end
end

local function is_result(entry)
  return string.byte(entry, 2) == 82
end
