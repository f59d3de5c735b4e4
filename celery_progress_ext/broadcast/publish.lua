-- Keep a snapshot and publish it, if it is newer than the kept one.
--
-- KEYS[1]  hash    progress:snapshot:<job id>   fields: version (integer), snapshot (JSON object)
--
-- ARGV[1]  version of the snapshot
-- ARGV[2]  milliseconds to keep it
-- ARGV[3]  the snapshot, JSON
-- ARGV[4]  event of a new version, JSON string
-- ARGV[5]  event of an unchanged version, JSON string; empty: do not publish that
-- ARGV[6…] channels
--
-- Returns 1 for a new version, 2 for an unchanged one that was published, 0 for nothing done.

local kept = tonumber(redis.call('HGET', KEYS[1], 'version') or '-1')
local version = tonumber(ARGV[1])
local message, answer

if version > kept then
    message = '{"data":' .. ARGV[3] .. ',"type":' .. ARGV[4] .. ',"id":' .. ARGV[1] .. '}'
    answer = 1
elseif version == kept and ARGV[5] ~= '' then
    message = '{"data":' .. ARGV[3] .. ',"type":' .. ARGV[5] .. '}'
    answer = 2
else
    return 0
end

redis.call('HSET', KEYS[1], 'version', ARGV[1], 'snapshot', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
for i = 6, #ARGV do
    redis.call('PUBLISH', ARGV[i], message)
end
return answer
