-- wrk script: posts the bodies of a folder in turn, each thread from another place.
-- Arguments: folder, kind (image or text), count.

local threads = 0

function setup(thread)
  thread:set("thread_number", threads)
  threads = threads + 1
end

function init(args)
  local folder, kind, count = args[1], args[2], tonumber(args[3])
  local headers = {}
  local path = "/v1/embeddings"
  if kind == "image" then
    headers["Content-Type"] = "image/png"
  else
    headers["Content-Type"] = "application/json"
  end
  requests = {}
  for number = 0, count - 1 do
    local file = assert(io.open(folder .. "/" .. kind .. "-" .. number, "rb"))
    requests[number] = wrk.format("POST", path, headers, file:read("*a"))
    file:close()
  end
  total = count
  next_request = thread_number * 37
end

function request()
  next_request = (next_request + 1) % total
  return requests[next_request]
end

function done(summary, latency, _)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format(
    "RESULT requests=%d errors=%d seconds=%.2f rate=%.1f p50_ms=%.2f p99_ms=%.2f\n",
    summary.requests, failed, summary.duration / 1e6, summary.requests / summary.duration * 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
