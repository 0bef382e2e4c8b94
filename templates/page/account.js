// ---- Who this page is ----------------------------------------------------------------------------------------
// Without a token it is nobody, and its connection speaks plain WebSocket. With one its sessions are the user's, and the
// connection speaks warren.v1.json, which tells apart what is said to all and what is said to the user.

const PROTOCOL = "warren.v1.json";
const TOKEN_KEY = "warren.token";
const TOKEN_ENDED = 4004;
/** What the server asks for: a `name`, a `token`, or nothing, where nobody is anybody: `none`. */
const SIGN_IN = document.getElementById("users").dataset.signIn;

/** What keeps a token from counting, by the server's word for it. */
const REASONS = new Map([
  ["expired", "it has ended"],
  ["not_yet_valid", "it is not its time yet"],
  ["signature", "it was signed with another key"],
  ["unknown_key", "it was signed with another key"],
  ["malformed", "it is no token"],
  ["audience", "it is for another server"],
  ["issuer", "another issuer gave it"],
]);

const account = {
  token: keptToken(),
  user: null,                // as the server says it; null while it has not, and for nobody
  groups: [],
  isLetIn: SIGN_IN === "none",
  knocks: 0,
  renewal: null,             // the promise of a new token
};

/** In this window alone, and no longer than it. */
function keptToken() {
  if (SIGN_IN === "none") return null;
  try { return sessionStorage.getItem(TOKEN_KEY); } catch { return null; }
}

function keepToken(token) {
  account.token = token;
  try {
    if (token === null) sessionStorage.removeItem(TOKEN_KEY);
    else sessionStorage.setItem(TOKEN_KEY, token);
  } catch { /* It is good until the page is left. */ }
}

/** What a session offers: a browser's WebSocket can bring a token in no other way. */
function protocols(...without) {
  return account.token === null ? without : [PROTOCOL, `bearer.${account.token}`];
}

/** Asks the server something in this page's name: the status and what it told. */
async function askServer(path, options = {}) {
  const headers = { ...options.headers };
  if (account.token !== null) headers.Authorization = `Bearer ${account.token}`;
  const signal = AbortSignal.timeout(HANDSHAKE_TIMEOUT_MS);
  const answer = await fetch(path, { cache: "no-store", signal, ...options, headers });
  return { status: answer.status, told: await answer.json() };
}

/** A browser does not tell why a WebSocket was refused. So the page asks first who it is, and whether that is let in. */
async function knock() {
  account.knocks += 1;
  const number = account.knocks;
  const answer = await askServer("/api/whoami").catch(() => null);
  if (number !== account.knocks) return;
  if (answer?.status === 200) {
    letIn(answer.told);
  } else if (answer?.status !== 401) {
    knockInVain(answer);
  } else if (account.token !== null) {
    becomeNobody(`Not signed in any more. ${describeRefusal(answer.told)}`);
    connect();
  } else {
    renderAccount();
    state.lastClose = { words: "This server lets in only who is signed in (401): see Users, below." };
    enter("closed");
  }
}

/**
 * Nobody said no. Whether the server cannot be reached, the socket finds out in its own way; but one that comes with a token
 * would get what is for somebody, and the page does not know for whom it shows that. The token is kept.
 */
function knockInVain(answer) {
  if (account.token === null) {
    letIn({});
    return;
  }
  const why = answer === null ? "it gave no answer that makes sense." : `${answer.told.detail} (${answer.status})`;
  state.lastClose = { words: `The server does not say who this is: ${why}` };
  waitToReconnect("");
}

function letIn({ user, groups }) {
  account.user = user ?? account.user;
  account.groups = groups ?? account.groups;
  account.isLetIn = true;
  renderAccount();
  openSocket();
  connectTopics();
}

function describeRefusal({ reason, detail }) {
  const words = REASONS.get(reason);
  return words === undefined ? `The token does not count: ${detail}` : `The token does not count: ${words} (${reason}).`;
}

/** Forgets the token and all that came by it, also what was heard by its rights and what its user has written. */
function becomeNobody(words) {
  keepToken(null);
  account.user = null;
  account.groups = [];
  leaveTopicSession();
  forgetMessages();
  forgetAnswers();
  forgetOwn();
  renderAccount();
  tellOfAccount(words);
}

async function signIn(user, groups) {
  tellOfAccount("Signing in…");
  try {
    becomeAnother(await tokenFor(user, groups));
  } catch (error) {
    tellOfAccount(`Not signed in: ${error.message}`);
  }
}

function becomeAnother(token) {
  keepToken(token);
  tellOfAccount("");
  changeSessions();
}

function signOut() {
  becomeNobody("Signed out.");
  changeSessions();
}

/** Sessions are somebody's from their beginning on: new ones for somebody else. */
function changeSessions() {
  leaveTopicSession();
  startAnew();
}

/** What was joined is so again once somebody, or nobody, is let in. */
function leaveTopicSession() {
  account.isLetIn = false;
  endTopicSession();
  topics.joined.forEach((_, pattern) => topics.joined.set(pattern, "new"));
  renderJoined();
}

async function tokenFor(user, groups) {
  // In nobody's name: an old token that does not count would be held against it.
  const headers = { "Content-Type": "application/json" };
  const signal = AbortSignal.timeout(HANDSHAKE_TIMEOUT_MS);
  const body = JSON.stringify({ user, groups });
  const answer = await fetch("/api/sign-in", { method: "POST", headers, body, signal });
  const told = await answer.json();
  if (!answer.ok) throw new Error(`${answer.status}, ${told.title}: ${told.detail}`);
  return told.token;
}

/** A session's token is about to end. Several sessions of this page hear that, and one new token is enough. */
async function renew(socket, { in_ms: leftMs }) {
  const seconds = counted(Math.ceil(leftMs / 1_000));
  if (SIGN_IN !== "name") {
    tellOfAccount(`The token ends in ${seconds} s.`);
    return;
  }
  try {
    account.renewal ??= tokenFor(account.user, account.groups).finally(() => { account.renewal = null; });
    const token = await account.renewal;
    if (socket.readyState !== WebSocket.OPEN || account.token === null) return;
    keepToken(token);
    socket.send(JSON.stringify({ type: "authenticate", token }));
  } catch (error) {
    tellOfAccount(`You are signed in for ${seconds} s more: ${error.message}`);
  }
}
