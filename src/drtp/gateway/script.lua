-- Runs at each request: it mints the trace, and tells services and browsers of sign-ins.
--
-- It decides nothing: signatures, times, the host that a token is for, and the rules, were looked at before it runs.
-- `VISIT`, `BROWSER`, `TOKENS` and `SECONDS` are set in front of it by script.py.

-- The trace id is the stream id (a UUID) without its dashes, the same that TCP flows carry in their PROXY header.
local function mint_trace(headers)
  local id = headers:get("x-request-id")
  if id ~= nil then
    local trace = string.gsub(id, "-", "")
    headers:replace("traceparent", "00-" .. trace .. "-" .. string.sub(trace, 17, 32) .. "-01")
  end
end

local function cookie(headers, wanted)
  for part in string.gmatch(headers:get("cookie") or "", "[^;]+") do
    local name, value = string.match(part, "^%s*([^=]*)=(.*)$")
    if name == wanted then return value end
  end
end

-- A service never sees the gateway's cookies: they would let one service of a host be its visitor at another.
local function keep_ours(headers)
  local said = headers:get("cookie")
  if said == nil or not string.find(said, "__Host-drtp-", 1, true) then return end
  local kept = {}
  for part in string.gmatch(said, "[^;]+") do
    local trimmed = string.match(part, "^%s*(.-)%s*$")
    if string.sub(trimmed, 1, 12) ~= "__Host-drtp-" then kept[#kept + 1] = trimmed end
  end
  if #kept == 0 then headers:remove("cookie") else headers:replace("cookie", table.concat(kept, "; ")) end
end

local function set_cookie(name, value, seconds)
  return name .. "=" .. value .. "; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=" .. seconds
end

local function answer(handle, status, text, set, location)
  handle:respond({
    [":status"] = status,
    ["content-type"] = "text/plain; charset=utf-8",
    ["cache-control"] = "no-store",
    ["referrer-policy"] = "no-referrer",
    ["set-cookie"] = set,
    ["location"] = location
  }, text)
end

-- Where a visitor was: a path of this very host. Two slashes, or a slash and a backslash, would begin another's name.
local function way_back(path)
  local to = string.match(path, "[?&]to=(.*)$") or "/"
  return string.match(to, "^/[^/\\]") and to or "/"
end

local function sign_in(handle, headers, url)
  local browser = cookie(headers, BROWSER)
  if browser == nil or #browser ~= 36 or not string.match(browser, "^[%x-]+$") then
    browser = headers:get("x-request-id")
  end
  local here = "https://" .. headers:get(":authority") .. way_back(headers:get(":path"))
  answer(handle, "302", "Sign in.\n", set_cookie(BROWSER, browser, SECONDS), url .. "?browser=" .. browser .. "&to=" .. here)
end

local function enter(handle, headers, visit)
  local path = headers:get(":path")
  if visit["browser"] ~= cookie(headers, BROWSER) then
    return answer(handle, "403", "") -- begun in another browser; the page is made outside
  end
  local token = string.match(path, "[?&]token=([^&]*)")
  answer(handle, "302", "Signed in.\n", set_cookie(VISIT, token, SECONDS), way_back(path))
end

-- The name of whoever holds the certificate that the handshake has checked, where the rules may mean them, and its end.
local function shown(connection, context)
  if connection == nil or not connection:peerCertificatePresented() then return nil end
  local uris = connection:uriSanPeerCertificate()
  if #uris ~= 1 then return nil end
  return context:get(uris[1]), connection:expirationPeerCertificate()
end

-- Users' names are printable; in JSON two characters of those need care.
local function quoted(name)
  return (string.gsub(name, '[\\"]', "\\%0"))
end

function envoy_on_request(handle)
  local headers = handle:headers()
  mint_trace(headers)
  local context = handle:filterContext()
  local does, host = context:get("does"), context:get("host")
  if does == "sign in" then return sign_in(handle, headers, context:get("url")) end
  if does == "sign out" then
    return answer(handle, "302", "Signed out here.\n", set_cookie(VISIT, "", 0), context:get("url") .. "/sign-out")
  end
  if host ~= nil then
    local metadata = handle:streamInfo():dynamicMetadata()
    local visit = (metadata:get(TOKENS) or {})["visit"]
    if visit ~= nil and visit["aud"] == host then
      if does == "enter" then return enter(handle, headers, visit) end
      metadata:set("drtp", "visitor", visit["who"])
      headers:replace("x-drtp-visitor", "user:" .. visit["name"])
      headers:replace("x-drtp-assertion", visit["assertion"])
    else
      local name, ends = shown(handle:streamInfo():downstreamSslConnection(), context)
      if name ~= nil then
        -- A connection may outlive what was shown when it was made.
        if ends <= os.time() then return answer(handle, "401", "") end
        metadata:set("drtp", "visitor", '{"name":"' .. quoted(name) .. '","groups":null,"until":' .. ends .. "}")
        headers:replace("x-drtp-visitor", "user:" .. name)
      end
    end
  end
  keep_ours(headers)
end
