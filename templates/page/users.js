// ---- Users ---------------------------------------------------------------------------------------------------
// What the connection does while it is somebody's: the broadcast by requests, who is here, and what is for the user alone.

const HERE_TOPIC = "warren.presence.users";
const HERE_SHOWN_MAX = 200;
// What an event did not tell, as one that was published while nobody asked, is seen by then.
const HERE_EVERY_MS = 10_000;
const LETTERS_SHOWN_MAX = 100;
// Repetitions come soon or not at all.
const LETTERS_KNOWN_MAX = 1_000;

/** What keeps a message from its user, by the code of the error. */
const REFUSED_LETTERS = new Map([
  [109, "your token does not let you write to users and groups"],
  [206, "the mailbox is full"],
  [207, "nobody belongs to this group"],
  [208, "the mailbox cannot be reached just now; try again later"],
  [209, "not connected, and it was not to be kept"],
]);
const MAY_HAVE_BEEN_SENT = 202;

const userDesk = Object.fromEntries([
  "sign-in-how", "sign-in-by-name", "sign-in-user", "sign-in-groups", "sign-in-by-token", "sign-in-token", "signed-in",
  "account", "account-status", "sign-out", "here", "here-status", "write", "write-kind", "write-to", "write-text",
  "write-now", "write-result", "no-letters", "letters",
].map((id) => [id, document.getElementById(id)]));

const own = {
  asked: new Map(),          // by request id: what is done with the answer, null if none will come
  requests: 0,
  since: null,               // the second in which the session began
  here: new Set(),
  hasMore: false,
  news: [],                  // events that came while the list was asked for: they are newer
  known: new Set(),          // ids of letters that came
  timers: { here: 0 },
};

function request(fields, answered) {
  own.requests += 1;
  const id = `own-${own.requests}`;
  own.asked.set(id, answered);
  state.socket.send(JSON.stringify({ ...fields, id }));
}

function ownSessionOpened() {
  own.since = Math.floor(Date.now() / 1_000);
  subscribeOwn({ broadcast: true }, "What is said to all");
  subscribeOwn({ topics: [HERE_TOPIC] }, "Who comes and goes");
}

function ownSessionClosed() {
  clearTimeout(own.timers.here);
  own.since = null;
  const asked = [...own.asked.values()];
  own.asked.clear();
  asked.forEach((answered) => answered(null));
}

/** Forgets what was for a user who is not here any more, and what that one has written. */
function forgetOwn() {
  // Nobody is left to be told what became of it.
  own.asked.clear();
  own.here.clear();
  own.hasMore = false;
  own.news = [];
  own.known.clear();
  userDesk.letters.replaceChildren();
  userDesk.write.reset();
  kindChanged();
  for (const words of ["write-result", "here-status"]) setWords(userDesk[words], "");
}

function subscribeOwn(fields, what) {
  const { socket } = state;
  request({ type: "subscribe", ...fields }, (answer) => {
    if (answer === null) return;
    // Behind the answer, so that nobody comes between the list and the events; and also where these are not granted.
    if (fields.topics !== undefined) refreshHere();
    if (answer.type === "ack") return;
    tellOfAccount(`${what} is not heard: ${answer.message} (${answer.code}).`);
    if (answer.code !== NOT_IN_FORCE) return;
    setTimeout(() => { if (socket === state.socket) subscribeOwn(fields, what); }, LASTED_MS);
  });
}

function ownNoticeArrived(data) {
  // The answer to a keep-alive is no notice.
  if (data === "pong") return;
  const notice = JSON.parse(data);
  if (notice.type === "message") ownMessageArrived(notice);
  else if (notice.type === "gap" && notice.scope !== "topics") takeGap(describeGap(notice));
  else if (notice.type === "expiring") renew(state.socket, notice);
  else if (notice.type === "ack" || notice.type === "error") answerArrived(notice);
}

function answerArrived(notice) {
  const answered = own.asked.get(notice.id);
  own.asked.delete(notice.id);
  if (answered !== undefined) answered(notice);
  else if (notice.type === "error") tellOfAccount(`${notice.message} (${notice.code}).`);
}

function ownMessageArrived(notice) {
  if (notice.user !== undefined) {
    letterArrived(notice, state.socket);
  } else if (notice.topic === HERE_TOPIC) {
    heardOfUser(JSON.parse(notice.text));
  } else {
    const { data, at } = heardMessage(notice);
    if (typeof data === "string") settleReturned(data);
    take({ data, at });
  }
}

function publishToAll(text) {
  request({ type: "publish", broadcast: true, text }, (answer) => {
    if (answer?.type !== "error") return;
    settleReturned(text);
    const isBack = page.text.value === "";
    if (isBack) setText(text);
    else state.kept.push(text);
    const outcome = answer.code === MAY_HAVE_BEEN_SENT ? "It may not have been sent" : "It was not sent";
    showNotice("loss", `${outcome}: ${answer.message} (${answer.code}).${isBack ? " It is back in the field." : ""}`, state.kept);
  });
}

// ---- Who is here ---------------------------------------------------------------------------------------------

async function refreshHere() {
  const { socket } = state;
  clearTimeout(own.timers.here);
  own.news = [];
  const answer = await askServer(`/api/presence/users?everywhere=true&limit=${HERE_SHOWN_MAX}`).catch(() => null);
  if (socket !== state.socket || socket === null) return;
  if (answer?.status === 200) {
    own.here = new Set(answer.told.users.map(({ user }) => user));
    own.hasMore = answer.told.next !== null;
    own.news.forEach(moveUser);
    renderHere();
  } else if (answer !== null) {
    setWords(userDesk["here-status"], `Who is here is not told: ${answer.told.detail} (${answer.status})`);
  }
  own.timers.here = setTimeout(refreshHere, HERE_EVERY_MS);
}

function heardOfUser(event) {
  own.news.push(event);
  moveUser(event);
  renderHere();
  if (event.user !== account.user) setWords(userDesk["here-status"], `${event.user} ${event.event === "join" ? "has come" : "has left"}.`);
}

function moveUser({ event, user }) {
  if (event === "leave") own.here.delete(user);
  else if (own.here.size < HERE_SHOWN_MAX) own.here.add(user);
  else own.hasMore ||= !own.here.has(user);
}

function renderHere() {
  // An entry that stays is the same element: it may have the focus.
  const shown = new Map([...userDesk.here.children].map((entry) => [entry.dataset.user, entry]));
  const names = [...own.here].sort((one, other) => one.localeCompare(other));
  const entries = names.map((user) => shown.get(user) ?? hereEntry(user));
  for (const [user, entry] of shown) if (!own.here.has(user)) entry.remove();
  entries.forEach((entry, index) => {
    if (userDesk.here.children[index] !== entry) userDesk.here.insertBefore(entry, userDesk.here.children[index] ?? null);
  });
  userDesk.here.toggleAttribute("data-has-more", own.hasMore);
}

function hereEntry(user) {
  const entry = element("li");
  entry.dataset.user = user;
  const button = element("button", "", user);
  button.type = "button";
  button.dir = "auto";
  button.setAttribute("aria-label", user === account.user ? `${user}, you yourself` : `Write to ${user}`);
  button.addEventListener("click", () => writeTo(user));
  entry.toggleAttribute("data-self", user === account.user);
  entry.append(button);
  return entry;
}

// ---- Writing to somebody -------------------------------------------------------------------------------------

function writeTo(user) {
  userDesk["write-kind"].value = "user";
  userDesk["write-to"].value = user;
  kindChanged();
  userDesk["write-text"].focus();
}

/** What is for a group is kept for those of it who are away. */
function kindChanged() {
  const isGroup = userDesk["write-kind"].value === "group";
  userDesk["write-now"].disabled = isGroup;
  if (isGroup) userDesk["write-now"].checked = false;
}

function write() {
  if (!isSomebodys() || state.socket.readyState !== WebSocket.OPEN) {
    tellOfLetter("failed", "Not connected, so nothing was sent.");
    return;
  }
  const [kind, to, text] = ["write-kind", "write-to", "write-text"].map((id) => userDesk[id].value);
  const isForNow = userDesk["write-now"].checked;
  tellOfLetter("under-way", "Waiting for the broker’s confirmation…");
  const whoever = kind === "group" ? `Everybody in ${to}` : to;
  request({ type: "send", [kind]: to, text, keep: isForNow ? false : undefined }, (answer) => {
    if (answer === null) tellOfLetter("failed", "The connection was lost: it is not known whether this was sent.");
    else if (answer.type === "error") tellOfLetter("failed", describeRefusedLetter(to, answer));
    else tellOfLetter("sent", isForNow ? `On its way to ${to}.` : `Kept until it is read. ${whoever} gets it now, or on signing in.`);
    // What was written meanwhile is another one.
    if (answer?.type === "ack" && userDesk["write-text"].value === text) userDesk["write-text"].value = "";
  });
}

function describeRefusedLetter(to, { code, message }) {
  const outcome = code === MAY_HAVE_BEEN_SENT ? "Perhaps not sent" : "Not sent";
  return `${outcome} to ${to}: ${REFUSED_LETTERS.get(code) ?? message} (${code}).`;
}

function tellOfLetter(outcome, words) {
  userDesk["write-result"].dataset.outcome = outcome;
  setWords(userDesk["write-result"], words);
}

// ---- What is written to the user -----------------------------------------------------------------------------

/** It comes on each session of this page, and is acknowledged on each; it is shown once. */
function letterArrived(notice, socket) {
  if (!own.known.has(notice.id)) {
    own.known.add(notice.id);
    if (own.known.size > LETTERS_KNOWN_MAX) own.known.delete(own.known.values().next().value);
    userDesk.letters.prepend(letterEntry(notice));
    while (userDesk.letters.childElementCount > LETTERS_SHOWN_MAX) userDesk.letters.lastElementChild.remove();
    renderLetters();
    announce({ data: heardMessage(notice).data, topic: `From ${notice.from ?? "the server"}` }, 1);
  }
  socket.send(JSON.stringify({ type: "acknowledge", message_id: notice.id }));
}

function renderLetters() {
  const isEmpty = userDesk.letters.childElementCount === 0;
  userDesk.letters.hidden = isEmpty;
  userDesk["no-letters"].hidden = !isEmpty;
}

function letterEntry(notice) {
  const { data } = heardMessage(notice);
  const at = new Date(notice.time);
  const entry = element("li", "message letter");
  const time = element("time", "", timeOfDay.format(at));
  time.dateTime = at.toISOString();
  time.title = dateAndTime.format(at);
  const origin = element("p", "origin");
  if (notice.from !== undefined) origin.append("from ", element("b", "from", notice.from));
  if (notice.group !== undefined) origin.append(" to the group ", element("b", "group", notice.group));
  if (wasMissed(at)) origin.append(" ", element("span", "missed", "while you were away"));
  entry.append(time, origin, typeof data === "string" ? textPayload(data) : binaryPayload(data));
  return entry;
}

/** By whole seconds, as RabbitMQ carries no more; and by two clocks, where the server is on another host. */
function wasMissed(at) {
  return Math.floor(at.getTime() / 1_000) < (own.since ?? Infinity);
}

// ---- What is said of the account -----------------------------------------------------------------------------

function renderAccount() {
  const isSomebody = account.user !== null;
  const hidden = {
    "sign-in-how": SIGN_IN !== "none",
    "sign-in-by-name": SIGN_IN !== "name" || isSomebody,
    "sign-in-by-token": SIGN_IN !== "token" || isSomebody,
    "signed-in": !isSomebody,
  };
  // A focused field that vanishes would throw the keyboard back to the top of the page.
  const vanishes = Object.entries(hidden).some(([id, is]) => is && userDesk[id].contains(document.activeElement));
  for (const [id, is] of Object.entries(hidden)) userDesk[id].hidden = is;
  const groups = account.groups.length === 0 ? "" : `, in ${account.groups.join(", ")}`;
  setWords(userDesk.account, isSomebody ? `Signed in as ${account.user}${groups}` : "");
  if (vanishes) (isSomebody ? userDesk.account : userDesk["sign-in-user"]).focus({ preventScroll: true });
  renderHere();
  renderLetters();
}

function tellOfAccount(words) {
  setWords(userDesk["account-status"], words);
}

userDesk["sign-in-by-name"].addEventListener("submit", (event) => {
  event.preventDefault();
  const groups = userDesk["sign-in-groups"].value.split(",").map((name) => name.trim()).filter((name) => name !== "");
  signIn(userDesk["sign-in-user"].value.trim(), groups);
});
userDesk["sign-in-by-token"].addEventListener("submit", (event) => {
  event.preventDefault();
  const token = userDesk["sign-in-token"].value.trim();
  userDesk["sign-in-token"].value = "";
  becomeAnother(token);
});
userDesk["sign-out"].addEventListener("click", signOut);
userDesk["write-kind"].addEventListener("change", kindChanged);
userDesk.write.addEventListener("submit", (event) => { event.preventDefault(); write(); });
renderAccount();
