// ---- Topics --------------------------------------------------------------------------------------------------
// A session of their own beside the broadcast's, from the first topic to the last: warren.v1.json.

const NOT_IN_FORCE = 200;
const TOO_LARGE = 1009;
const TOPICS_KEY = "warren.topics";
// A proxy's limit or a browser's own, not one that anybody meets by hand.
const JOINED_MAX = 100;

const topicDesk = Object.fromEntries([
  "join-form", "topic", "join-demo", "joined", "topics-status",
].map((id) => [id, document.getElementById(id)]));

const topics = {
  joined: new Map(),         // each topic or pattern in its one form: "new", "joined" once acknowledged, "lost" with its session
  cursor: null,              // of what came last; the place of all that was ever acknowledged, where the server gives cursors
  asked: new Map(),          // by request id: { type, patterns, since }, the last two of a subscription
  goesOn: false,             // what was lost is asked for from the cursor on; until that is granted nothing else is asked for
  requests: 0,
  socket: null,
  openedAt: null,
  isMissing: false,          // a session ended, and nobody gives what was said since
  failures: 0,
  timers: { handshake: 0, retry: 0, keepAlive: 0 },
};

function joinTyped() {
  const patterns = topicDesk.topic.value.split(/[\s,]+/).filter((word) => word !== "").map(oneForm);
  if (patterns.length === 0) {
    tellOfTopics("Type the name of a topic first.");
    return;
  }
  topicDesk.topic.value = "";
  patterns.forEach(join);
}

/** The form in which the server names it: dots, and no slash in front. */
function oneForm(name) {
  return name.replace(/^\//, "").replaceAll("/", ".");
}

function join(pattern) {
  if (topics.joined.has(pattern)) {
    tellOfTopics(`${pattern} is joined already.`);
    return;
  }
  if (topics.joined.size >= JOINED_MAX) {
    tellOfTopics(`This page joins at most ${JOINED_MAX} topics.`);
    return;
  }
  topics.joined.set(pattern, "new");
  topicsChanged();
  if (topics.goesOn) return;
  if (isTopicSessionOpen()) ask("subscribe", [pattern]);
  else if (topics.socket === null && !topics.timers.retry) connectTopics();
}

function leave(pattern) {
  if (!topics.joined.delete(pattern)) return;
  topicsChanged();
  tellOfTopics(`Left ${pattern}.`);
  topicDesk.topic.focus();
  if (topics.joined.size === 0) endTopicSession();
  else if (isTopicSessionOpen()) ask("unsubscribe", [pattern]);
}

function isTopicSessionOpen() {
  return topics.openedAt !== null && topics.socket?.readyState === WebSocket.OPEN;
}

function ask(type, patterns, since) {
  topics.requests += 1;
  const id = String(topics.requests);
  topics.asked.set(id, { type, patterns, since });
  topics.socket.send(JSON.stringify({ type, id, topics: patterns, since }));
}

/**
 * What was lost comes first, in one request and with nothing beside: so whatever comes until that is granted moves the
 * cursor for all of it. The rest follows one by one, as each may be refused for itself.
 */
function askForAll() {
  const lost = patternsThatAre("lost");
  topics.goesOn = lost.length > 0;
  if (topics.goesOn) ask("subscribe", lost, topics.cursor);
  else patternsThatAre("new").forEach((pattern) => ask("subscribe", [pattern]));
}

function patternsThatAre(state) {
  return [...topics.joined].filter(([, its]) => its === state).map(([pattern]) => pattern);
}

/** Nobody gives what was said to these since they were lost. */
function beginAnew(patterns) {
  topics.isMissing ||= patterns.length > 0;
  patterns.forEach((pattern) => topics.joined.set(pattern, "new"));
}

function connectTopics() {
  clearTimeout(topics.timers.retry);
  topics.timers.retry = 0;
  if (topics.joined.size === 0 || topics.socket !== null || !account.isLetIn) return;
  let socket;
  try {
    socket = new WebSocket(messageUrl(), protocols(PROTOCOL));
  } catch (error) {
    tellOfTopics(`The browser does not allow this connection: ${error.message}`);
    return;
  }
  topics.socket = socket;
  topics.openedAt = null;
  const heard = (handle) => (event) => { if (socket === topics.socket) handle(event); };
  socket.addEventListener("open", heard(topicSessionOpened));
  socket.addEventListener("message", heard(noticeArrived));
  socket.addEventListener("close", heard(topicSessionClosed));
  topics.timers.handshake = setTimeout(() => socket.close(), HANDSHAKE_TIMEOUT_MS);
}

function topicSessionOpened() {
  clearTimeout(topics.timers.handshake);
  topics.openedAt = performance.now();
  topics.timers.keepAlive = setInterval(() => {
    if (isTopicSessionOpen()) topics.socket.send(KEEP_ALIVE_WORDS[0]);
  }, KEEP_ALIVE_EVERY_MS);
  askForAll();
}

function topicSessionClosed({ code, reason }) {
  const lasted = topics.openedAt !== null && performance.now() - topics.openedAt >= LASTED_MS;
  const opened = topics.openedAt !== null;
  forgetTopicSession();
  if (lasted) topics.failures = 0;
  // With the cursor a request may be larger than this server takes.
  if (code === TOO_LARGE) topics.cursor = null;
  const lost = [...patternsThatAre("joined"), ...patternsThatAre("lost")];
  if (topics.cursor === null) beginAnew(lost);
  else lost.forEach((pattern) => topics.joined.set(pattern, "lost"));
  renderJoined();
  const asked = retryAfterMs(reason);
  const wait = asked > 0 ? asked + Math.random() * pauseSpreadMs(asked) : backoffMs(topics.failures);
  topics.failures += 1;
  topics.timers.retry = setTimeout(connectTopics, wait);
  tellOfTopics(`Topics are being joined again. ${describeClose({ code, reason, opened })}`);
}

function endTopicSession() {
  clearTimeout(topics.timers.retry);
  topics.timers.retry = 0;
  topics.socket?.close(1000);
  topics.isMissing = false;
  topics.cursor = null;
  forgetTopicSession();
}

function forgetTopicSession() {
  clearTimeout(topics.timers.handshake);
  clearInterval(topics.timers.keepAlive);
  topics.socket = null;
  topics.openedAt = null;
  topics.goesOn = false;
  if ([...topics.asked.values()].some(({ type }) => type === "send")) backendsLost();
  topics.asked.clear();
}

/** What a server may say one day and this page does not know is passed over. */
function noticeArrived({ data }) {
  // The answer to a keep-alive is no notice.
  if (data === "pong") return;
  const notice = JSON.parse(data);
  topics.cursor = notice.cursor ?? topics.cursor;
  if (notice.type === "message" && notice.user !== undefined) letterArrived(notice, topics.socket);
  else if (notice.type === "message") take(heardMessage(notice));
  else if (notice.type === "expiring") renew(topics.socket, notice);
  else if (notice.type === "gap") takeGap(describeGap(notice));
  else if (notice.type === "ack") granted(notice);
  else if (notice.type === "error") refused(notice);
}

function heardMessage({ topic, direct, id, text, base64 }) {
  const origin = topic ?? (direct ? "to this page alone" : "broadcast");
  return { data: base64 === undefined ? text : bytesOf(base64), at: new Date(), topic: origin, id };
}

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0)).buffer;
}

function describeGap({ scope, missing }) {
  const places = { broadcast: " of the broadcast", topics: " of joined topics" };
  const of = places[scope] ?? "";
  if (missing === undefined) return `Messages${of} may be missing here.`;
  return `${counted(missing)} ${missing === 1 ? "message" : "messages"}${of} ${missing === 1 ? "is" : "are"} missing here.`;
}

function granted({ id, message_id }) {
  const asked = topics.asked.get(id);
  topics.asked.delete(id);
  if (asked?.type === "send") backendTook({ message_id });
  if (asked?.type !== "subscribe") return;
  // What was left meanwhile, and joined anew, is asked for again behind this.
  const state = asked.since === undefined ? "new" : "lost";
  const joined = asked.patterns.filter((pattern) => topics.joined.get(pattern) === state);
  joined.forEach((pattern) => topics.joined.set(pattern, "joined"));
  topicsChanged();
  if (asked.since !== undefined) askForAll();
  if (joined.length > 0) tellOfTopics(`Joined ${joined.join(", ")}${asked.since === undefined ? "" : " again, from where the connection was lost"}.`);
  if (topics.isMissing && patternsThatAre("joined").length === topics.joined.size) {
    topics.isMissing = false;
    takeGap("The connection was lost and is back. What was said to the joined topics meanwhile is missing here.");
  }
}

function refused({ id, code, message }) {
  const asked = topics.asked.get(id);
  topics.asked.delete(id);
  if (asked?.type === "send") backendRefused({ code, message });
  if (asked?.type !== "subscribe") return;
  if (asked.since !== undefined) {
    refusedToGoOn(code, message);
    return;
  }
  const [pattern] = asked.patterns;
  if (topics.joined.get(pattern) !== "new") return;
  if (code === NOT_IN_FORCE) {
    setTimeout(() => {
      if (topics.joined.get(pattern) === "new" && isTopicSessionOpen() && !topics.goesOn) ask("subscribe", [pattern]);
    }, LASTED_MS);
  } else {
    topics.joined.delete(pattern);
    topicsChanged();
    if (topics.joined.size === 0) endTopicSession();
  }
  tellOfTopics(`${pattern} is not joined: ${message} (${code}).`);
}

/** Only the broker that cannot be read just now is worth another try. */
function refusedToGoOn(code, message) {
  tellOfTopics(`Topics are not joined again yet: ${message} (${code}).`);
  if (code === NOT_IN_FORCE) {
    const { socket } = topics;
    setTimeout(() => { if (socket === topics.socket && isTopicSessionOpen()) askForAll(); }, LASTED_MS);
    return;
  }
  topics.cursor = null;
  beginAnew(patternsThatAre("lost"));
  askForAll();
}

// ---- What is said of topics ----------------------------------------------------------------------------------

function topicsChanged() {
  try { sessionStorage.setItem(TOPICS_KEY, JSON.stringify([...topics.joined.keys()])); } catch { /* as for the text */ }
  renderJoined();
}

function renderJoined() {
  // An entry that stays is the same element: it may have the focus.
  const shown = new Map([...topicDesk.joined.children].map((entry) => [entry.dataset.pattern, entry]));
  for (const [pattern, state] of topics.joined) {
    const entry = shown.get(pattern) ?? topicDesk.joined.appendChild(joinedEntry(pattern));
    entry.dataset.state = state === "joined" ? "joined" : "pending";
    shown.delete(pattern);
  }
  for (const entry of shown.values()) entry.remove();
  topicDesk.joined.hidden = topics.joined.size === 0;
  const demo = topicDesk["join-demo"];
  // A focused button that vanishes would throw the keyboard back to the top of the page.
  const vanishes = topics.joined.has(demo.dataset.topic);
  if (vanishes && document.activeElement === demo) topicDesk.topic.focus();
  demo.hidden = vanishes;
}

function joinedEntry(pattern) {
  const entry = element("li");
  entry.dataset.pattern = pattern;
  const button = element("button", "", "Leave");
  button.type = "button";
  button.setAttribute("aria-label", `Leave ${pattern}`);
  button.addEventListener("click", () => leave(pattern));
  entry.append(element("code", "", pattern), button);
  return entry;
}

function tellOfTopics(words) {
  setWords(topicDesk["topics-status"], words);
}

/** A reload keeps what was joined; a new window begins with the broadcast alone. */
function restoreTopics() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(TOPICS_KEY) ?? "[]");
    kept.filter((pattern) => typeof pattern === "string").forEach(join);
  } catch { /* as for the text */ }
}

function listenToTopics() {
  topicDesk["join-form"].addEventListener("submit", (event) => { event.preventDefault(); joinTyped(); });
  topicDesk["join-demo"].addEventListener("click", () => join(topicDesk["join-demo"].dataset.topic));
  window.addEventListener("online", connectTopics);
}

listenToTopics();
restoreTopics();
