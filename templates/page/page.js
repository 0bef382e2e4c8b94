const MESSAGES_SHOWN_MAX = 500;
// One enormous message must not make the page unusable. Far more than anyone reads, far less than hurts.
const PAYLOAD_SHOWN_CHARS_MAX = 65_536;
const BINARY_PREVIEW_BYTES = 16;
const RENDER_EVERY_MS = 30;
const ANNOUNCE_EVERY_MS = 3_000;
const ANNOUNCED_CHARS_MAX = 200;

const BACKOFF_FIRST_MS = 250;
const BACKOFF_MAX_MS = 15_000;
// A connection that falls sooner than this has not shown that the server is well, so the backoff goes on growing.
const LASTED_MS = 2_000;
const HANDSHAKE_TIMEOUT_MS = 10_000;
const HEALTH_TIMEOUT_MS = 5_000;
// A server that asks for a longer pause than this is more likely wrong than patient.
const RETRY_AFTER_MAX_MS = 300_000;
const KEEP_ALIVE_EVERY_MS = 25_000;
const KEEP_ALIVE_WORDS = ["ping", "keep-alive"];

const TEXT_KEY = "warren.text";

const CLOSE_MEANINGS = new Map([
  [1000, "closed normally"],
  [1001, "the instance is going away"],
  [1002, "protocol error"],
  [1003, "this kind of data is not accepted"],
  [1005, "no code was given"],
  [1006, "lost without a goodbye"],
  [1007, "the data was malformed"],
  [1008, "refused by policy"],
  [1009, "the message was too large"],
  [1010, "an extension is missing"],
  [1011, "error in the server"],
  [1012, "the service is restarting"],
  [1013, "try again later"],
  [1014, "bad answer from a gateway"],
  [1015, "TLS failed"],
  [3000, "not signed in"],
  [3003, "not allowed"],
  [4001, "this browser read too slowly"],
  [4002, "nothing was heard from this browser"],
  [4004, "the token has ended"],
  [4005, "the user has too many sessions"],
]);
const TRY_AGAIN_LATER = 1013;
const MESSAGE_TOO_LARGE = 1009;
const REFUSALS = [1008, 3000, 3003, 4005];

const page = Object.fromEntries([
  "status", "status-word", "status-wait", "status-reason", "connect-now", "instance", "compose", "text",
  "notice-box", "notice", "dismiss", "received", "empty", "messages", "older", "announcer",
].map((id) => [id, document.getElementById(id)]));

/** Everything the page knows; what is on the screen follows from it. */
const state = {
  phase: "connecting",       // connecting | open | waiting | closed, the same words as data-state
  socket: null,
  openedAt: null,            // performance.now() of the handshake's end, null if there was none
  failures: 0,               // attempts in a row that did not last
  lastClose: null,           // { code, reason, opened }, or { words }
  retryAt: 0,                // when the next attempt is due
  notBefore: 0,              // what the server asked for; only the user may come sooner
  unreturned: [],            // texts sent on this socket that have not come back, oldest first
  kept: [],                  // texts that may be lost and found no room in the field
  received: 0,
  gaps: 0,
  arrivals: [],              // received, not yet in the list
  unannounced: 0,
  latest: null,              // the arrival to be announced next
  timers: { handshake: 0, retry: 0, countdown: 0, keepAlive: 0, render: 0, announce: 0 },
};

// ---- Connection ----------------------------------------------------------------------------------------------

function messageUrl() {
  return `${location.protocol === "https:" ? "wss:" : "ws:"}//${location.host}/message`;
}

function connect() {
  clearTimeout(state.timers.retry);
  state.notBefore = 0;
  enter("connecting");
  if (SIGN_IN === "none") openSocket();
  else knock();
}

function openSocket() {
  let socket;
  try {
    socket = new WebSocket(messageUrl(), protocols());
  } catch (error) {
    // Thrown only where the browser forbids the address as such; trying again cannot change its mind.
    state.lastClose = { code: null, reason: error.message, opened: false };
    enter("closed");
    return;
  }
  socket.binaryType = "arraybuffer";
  state.socket = socket;
  state.openedAt = null;

  // A socket that was given up may still speak. Only the current one is heard.
  const heard = (handle) => (event) => { if (socket === state.socket) handle(event); };
  socket.addEventListener("open", heard(opened));
  socket.addEventListener("message", heard(messageArrived));
  socket.addEventListener("close", heard(closed));
  // Browsers wait minutes for an address that swallows packets.
  state.timers.handshake = setTimeout(() => socket.close(), HANDSHAKE_TIMEOUT_MS);
}

function opened() {
  clearTimeout(state.timers.handshake);
  state.openedAt = performance.now();
  state.lastClose = null;
  state.timers.keepAlive = setInterval(sendKeepAlive, KEEP_ALIVE_EVERY_MS);
  removeNotice("offline");
  enter("open");
  if (isSomebodys()) ownSessionOpened();
  refreshInstance(state.socket);
}

function closed({ code, reason }) {
  clearTimeout(state.timers.handshake);
  clearInterval(state.timers.keepAlive);
  const wasOpen = state.openedAt !== null;
  const lasted = wasOpen && performance.now() - state.openedAt >= LASTED_MS;
  state.socket = null;
  state.openedAt = null;
  state.lastClose = { code, reason, opened: wasOpen };
  if (lasted) state.failures = 0;

  settleUnreturned(code);
  ownSessionClosed();
  if (code === TOKEN_ENDED) becomeNobody("Not signed in any more: the token has ended.");
  // Refused at the door, one would be refused again. The same code on a connection that had lasted is about
  // something that happened on it, and is no reason to stay away.
  if (REFUSALS.includes(code) && !lasted) enter("closed");
  else waitToReconnect(reason);
}

/** Ends the session, for one of somebody else. */
function startAnew() {
  const { socket } = state;
  state.socket = null;
  state.openedAt = null;
  clearTimeout(state.timers.handshake);
  clearInterval(state.timers.keepAlive);
  socket?.close(1000);
  settleUnreturned(1000);
  ownSessionClosed();
  state.failures = 0;
  state.lastClose = null;
  connect();
}

/** Whether the session is a user's, and so speaks warren.v1.json. */
function isSomebodys() {
  return state.socket?.protocol === PROTOCOL;
}

function waitToReconnect(reason) {
  const asked = retryAfterMs(reason);
  const wait = asked > 0 ? asked + Math.random() * pauseSpreadMs(asked) : backoffMs(state.failures);
  state.failures += 1;
  state.retryAt = performance.now() + wait;
  state.notBefore = asked > 0 ? state.retryAt : 0;
  state.timers.retry = setTimeout(connect, wait);
  enter("waiting");
}

/** Full jitter: anywhere between nothing and the ceiling, so that a crowd cut off together comes back spread out. */
function backoffMs(failures) {
  return Math.random() * Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** failures);
}

/** A pause that was asked for comes from a server in good order: it needs spreading, but no growing distrust. */
function pauseSpreadMs(asked) {
  return Math.min(BACKOFF_MAX_MS, Math.max(BACKOFF_FIRST_MS, asked / 2));
}

function retryAfterMs(reason) {
  const asked = /\bretry-after-ms=(\d{1,12})\b/.exec(reason);
  return asked ? Math.min(Number(asked[1]), RETRY_AFTER_MAX_MS) : 0;
}

function isDisconnected() {
  return state.phase === "waiting" || state.phase === "closed";
}

/** For signs that the network may be back. They do not outweigh a pause that the server asked for. */
function connectIfAllowed() {
  if (isDisconnected() && performance.now() >= state.notBefore) connect();
}

function sendKeepAlive() {
  if (state.socket?.readyState === WebSocket.OPEN) state.socket.send(KEEP_ALIVE_WORDS[0]);
}

/** The connection may have moved to another instance. The name on show stays until a better one is known. */
async function refreshInstance(socket) {
  try {
    const answer = await fetch("/healthz", { cache: "no-store", signal: AbortSignal.timeout(HEALTH_TIMEOUT_MS) });
    const { instance } = await answer.json();
    if (socket === state.socket && typeof instance === "string" && instance !== "") showInstance(instance);
  } catch {
    // Which instance this is, is good to know, but nothing depends on it.
  }
}

// ---- Sending -------------------------------------------------------------------------------------------------

function submit() {
  const refusal = reasonNotToSend(page.text.value);
  if (refusal) {
    showNotice(refusal.kind, refusal.words);
    return;
  }
  send(page.text.value);
  setText("");
  removeNotice("offline");
  removeNotice("input");
  if (state.kept.length === 0) removeNotice("loss");
}

function reasonNotToSend(text) {
  if (text === "") return { kind: "input", words: "There is nothing to send yet." };
  if (KEEP_ALIVE_WORDS.includes(text)) {
    return { kind: "input", words: `“${text}” was not sent: “ping” and “keep-alive” only keep a connection alive and are not broadcast. Any other text is.` };
  }
  // The socket knows first: while it is closing it would take the text and drop it in silence.
  if (state.phase !== "open" || state.socket.readyState !== WebSocket.OPEN) {
    return { kind: "offline", words: "Not connected, so nothing was sent. Your text is kept." };
  }
  return null;
}

function send(text) {
  // A lone surrogate does not survive UTF-8. Replaced here too, the text can be recognised when it returns.
  const wellFormed = text.toWellFormed?.() ?? text;
  if (isSomebodys()) publishToAll(wellFormed);
  else state.socket.send(wellFormed);
  state.unreturned.push(wellFormed);
}

/**
 * Nothing in a plain text says who sent it, so another browser's identical text settles ours too. Good enough to
 * decide what might be lost; not good enough to mark an entry of the list as one's own.
 */
function settleReturned(text) {
  const index = state.unreturned.indexOf(text);
  if (index !== -1) state.unreturned.splice(index, 1);
}

/** A message is accepted once it has come back. On a connection that is gone, the rest never will. */
function settleUnreturned(code) {
  const lost = state.unreturned;
  state.unreturned = [];
  if (lost.length === 0) return;

  const count = lost.length;
  const putBack = page.text.value === "";
  if (putBack) setText(lost.pop());
  state.kept.push(...lost);
  showNotice("loss", lossWords(code, count, putBack), state.kept);
}

function lossWords(code, count, putBack) {
  const cause = code === TRY_AGAIN_LATER ? "The broker was not taking messages"
    : code === MESSAGE_TOO_LARGE ? "The server found a message too large"
    : "The connection ended too early";
  const what = count === 1
    ? "your last message may not have been delivered"
    : `your last ${count} messages may not have been delivered`;
  const where = putBack ? (count === 1 ? " It is back in the field." : " The last is back in the field.") : "";
  return `${cause} (code ${code}): ${what}.${where}${state.kept.length > 0 ? " Kept here to copy:" : ""}`;
}

// ---- What the page says --------------------------------------------------------------------------------------

function enter(phase) {
  state.phase = phase;
  clearInterval(state.timers.countdown);
  if (phase === "waiting") state.timers.countdown = setInterval(renderCountdown, 250);
  renderStatus();
}

function renderStatus() {
  const words = { connecting: "Connecting…", open: "Connected", waiting: "Reconnecting ", closed: "Closed" };
  page.status.dataset.state = state.phase;
  setWords(page["status-word"], words[state.phase]);
  renderCountdown();
  setWords(page["status-reason"], state.lastClose ? describeClose(state.lastClose) : "");
  renderConnectNow();
}

function renderCountdown() {
  const seconds = Math.max(1, Math.ceil((state.retryAt - performance.now()) / 1_000));
  setWords(page["status-wait"], state.phase === "waiting" ? `in ${seconds} s` : "");
}

function renderConnectNow() {
  // A focused button that vanishes would throw the keyboard back to the top of the page.
  if (!isDisconnected() && document.activeElement === page["connect-now"]) page.status.focus({ preventScroll: true });
  page["connect-now"].hidden = !isDisconnected();
}

function describeClose({ code, reason, opened, words }) {
  if (words !== undefined) return words;
  if (code === null) return `The browser does not allow this connection: ${reason}`;
  if (!opened && code === 1006) return "Code 1006: the server is out of reach or refused the connection.";
  const meaning = CLOSE_MEANINGS.get(code);
  return `Code ${code}${meaning ? `, ${meaning}` : ""}${reason ? `: “${reason}”` : ""}.`;
}

function showInstance(name) {
  setWords(page.instance, name);
}

/** One notice per kind; saying the same again makes a new node, so that it is read aloud again. */
function showNotice(kind, words, texts = []) {
  dropNotice(kind);
  const notice = element("div");
  notice.dataset.kind = kind;
  notice.append(element("p", "", words));
  if (texts.length > 0) notice.append(keptTexts(texts));
  page.notice.append(notice);
  renderNoticeBox();
}

function removeNotice(kind) {
  dropNotice(kind);
  renderNoticeBox();
}

function dropNotice(kind) {
  page.notice.querySelector(`[data-kind="${kind}"]`)?.remove();
}

function dismissNotices() {
  state.kept = [];
  page.notice.replaceChildren();
  page.text.focus();
  renderNoticeBox();
}

function renderNoticeBox() {
  const filled = page.notice.childElementCount > 0;
  page["notice-box"].toggleAttribute("data-filled", filled);
  page.dismiss.hidden = !filled;
}

function keptTexts(texts) {
  const list = element("ul");
  list.id = "kept";
  list.setAttribute("role", "list");
  list.setAttribute("aria-label", "Messages that may not have been delivered");
  // It scrolls when it is long, and a keyboard can scroll only what it can reach.
  list.tabIndex = 0;
  list.append(...texts.map((text) => element("li", "", text)));
  return list;
}

/** Speaks for the list: at once when all is quiet, otherwise the latest and how many, once per pause. */
function announce(latest, count) {
  state.unannounced += count;
  state.latest = latest;
  if (!state.timers.announce) speak();
}

function speak() {
  state.timers.announce = 0;
  if (state.unannounced === 0) {
    // Nobody should come across an old announcement while reading through the page.
    page.announcer.textContent = "";
    return;
  }
  const { data, topic } = state.latest;
  const said = typeof data === "string" ? shortened(data, ANNOUNCED_CHARS_MAX) : describeBinary(data).replace(/: $/, "");
  const words = topic === undefined ? said : `${topic}: ${said}`;
  page.announcer.textContent = state.unannounced === 1 ? `New message: ${words}` : `${counted(state.unannounced)} new messages, the latest: ${words}`;
  state.unannounced = 0;
  state.timers.announce = setTimeout(speak, ANNOUNCE_EVERY_MS);
}

// ---- The text being written ----------------------------------------------------------------------------------

function setText(text) {
  page.text.value = text;
  saveText();
}

// Storage may be switched off or full; the page then works on, and only a reload forgets.
function saveText() {
  try { sessionStorage.setItem(TEXT_KEY, page.text.value); } catch { /* see above */ }
}

function restoreText() {
  try { page.text.value = sessionStorage.getItem(TEXT_KEY) ?? ""; } catch { /* see above */ }
}

function textChanged() {
  saveText();
  removeNotice("input");
}

function sendOnEnter(event) {
  // While an input method is composing, Enter chooses a candidate; Safari tells so only by the key code.
  const composing = event.isComposing || event.keyCode === 229;
  if (event.key !== "Enter" || event.shiftKey || composing) return;
  event.preventDefault();
  if (!event.repeat) submit();
}

// ---- Small things --------------------------------------------------------------------------------------------

const timeOfDay = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const dateAndTime = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });

/** The only way text gets into the page: as text, never as markup. */
function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

/** Writing the same words again would be read aloud again. */
function setWords(target, words) {
  if (target.textContent !== words) target.textContent = words;
}

function counted(number) {
  return number.toLocaleString("en");
}

function shortened(text, charsMax) {
  return text.length > charsMax ? `${text.slice(0, charsMax)}…` : text;
}

// ---- Start ---------------------------------------------------------------------------------------------------

function listen() {
  page.compose.addEventListener("submit", (event) => { event.preventDefault(); submit(); });
  page.text.addEventListener("keydown", sendOnEnter);
  page.text.addEventListener("input", textChanged);
  page["connect-now"].addEventListener("click", connect);
  page.dismiss.addEventListener("click", dismissNotices);
  window.addEventListener("online", connectIfAllowed);
  window.addEventListener("pageshow", (event) => { if (event.persisted) connectIfAllowed(); });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) connectIfAllowed(); });
}

restoreText();
listen();
connect();
