-- The generic cell rate algorithm over one or more buckets: one is spent from each, or nothing when one is empty.
--
-- KEYS     the buckets; each holds its theoretical arrival time, in microseconds of this server's clock
-- ARGV     for each bucket: what one request costs, what the burst costs, and what the caller knows to be owed,
--          all in microseconds. What is owed counts when it is more than what is kept here: this server forgets
--          when it restarts, and it does not see what was admitted while it was away.
-- returns  the server's time, then for each bucket: how long to wait (0: admitted), and how long until it is full
--
-- Whoever can write to this server can put anything in a bucket's place. What is no number (or is NaN, which compares
-- with nothing, so that every request would pass) is no bucket: what the caller knows to be owed still counts, and the
-- key is written anew. A number that is too large is the whole burst, as after any other clock's.
--
-- The clock is the server's, so replicas whose clocks differ agree. Numbers stay below 2^53 and are exact.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local answer, arrivals, kept, refused = {now}, {}, {}, false

for i, key in ipairs(KEYS) do
	local cost, burst, owed = tonumber(ARGV[3 * i - 2]), tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i])
	local held = redis.pcall('GET', key) -- an error is a table: the key is of another kind, such as a list
	kept[i] = type(held) == 'string' and tonumber(held) or 0
	if kept[i] ~= kept[i] then
		kept[i] = 0
	end
	-- Never more than the burst: that is what a clock that was set back, or a limit made smaller, would leave.
	local at = math.min(math.max(kept[i], now + owed, now), now + burst)
	local wait = math.max(at + cost - burst - now, 0)
	refused = refused or wait > 0
	arrivals[i] = at
	answer[2 * i] = wait
end

for i, key in ipairs(KEYS) do
	local at = arrivals[i]
	if not refused then
		at = at + tonumber(ARGV[3 * i - 2])
	end
	if at > now and at ~= kept[i] then
		redis.call('SET', key, string.format('%.0f', at), 'PX', math.ceil((at - now) / 1000))
	end
	answer[2 * i + 1] = at - now
end

return answer
