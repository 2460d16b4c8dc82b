// All texts of the console in English. The other languages have the same shape. A sign for something put in: {name}.

const words = {
  app: { name: 'Levee console' },
  nav: {
    label: 'Main', skip: 'To the content', open: 'Menu', language: 'Language', theme: 'Appearance', shop: 'The shop',
    overview: 'Overview', sales: 'Sales', products: 'Products', orders: 'Orders', webhooks: 'Webhooks', audit: 'Audit',
  },
  theme: { auto: 'Auto', light: 'Light', dark: 'Dark' },
  act: {
    cancel: 'Cancel', save: 'Save', edit: 'Edit', undo: 'Undo changes', search: 'Search', retry: 'Try again', refresh: 'Refresh', copy: 'Copy', signIn: 'Sign in', signOut: 'Sign out',
  },
  word: { yes: 'yes', no: 'no', minutes: 'minutes', seconds: 'seconds', nMinutes: '{n} minutes', perSecond: '/s' },
  state: {
    away: 'The server does not answer. What you typed is kept; the page goes on as soon as it is back.', loading: 'Loading…', nothing: 'Nothing here.',
  },
  filter: { all: 'All' },
  pager: { label: 'Pages', previous: 'Previous', next: 'Next' },
  field: {
    name: 'Name', nameOrPhone: 'Name or phone', password: 'Password', code: 'One-time code', title: 'Title', state: 'State', phase: 'Phase', price: 'Price', onHand: 'On hand', at: 'When', by: 'By', id: 'Id',
    version: 'Version', created: 'Created', updated: 'Updated', acts: 'Actions',
  },
  form: {
    optional: '(optional)', reason: 'Reason', reasonHelp: 'Kept with your name and the time.', needed: 'Fill this in.', needReason: 'Say why, in a few words.', needUnits: 'A whole number from 1 to {max}.',
    needTyped: 'Type “{word}” to go on.', typeWord: 'To confirm, type “{word}”', needWhole: 'A whole number.', needNumber: 'A number.', needAmount: 'An amount in {currency}, such as 129.00.', needTime: 'A date and a time.',
    drop: 'Choose a file, or drop it here.',
  },
  problem: { request: 'Request', allowed: 'Allowed: {allowed}.', allowedGiven: 'Allowed: {allowed}. Given: {given}', other: 'The server refused this ({status}).' },
  problems: {
    unreachable: 'The server cannot be reached.', unauthenticated: 'This was refused: what you gave does not sign you in.', forbidden: 'Your account may not do this.', not_found: 'There is no such thing, or it is not yours to see.',
    conflict: 'This does not fit how things stand now.', gone: 'This is not there any more.', invalid: 'Something here is not allowed.', too_many_requests: 'Too many requests. Wait a moment, then try again.',
    unavailable: 'The server is busy. Try again in a moment.', timeout: 'This took too long. Try again.', too_large: 'This is too large.', unsupported_media_type: 'This kind of file is not read here.',
    out_of_stock: 'Fewer units are on hand than this needs.', internal: 'Something broke on the server. The request number helps to find it.', idempotency_mismatch: 'The first of these requests was another one. Load the page again.',
    idempotency_running: 'The first of these requests is still under way.', already_paid: 'This is paid already.', payment_deadline_over: 'The time to pay is over.', ended: 'The sale is over.',
  },
  done: { saved: 'Saved.', created: 'Created.', removed: 'Removed.', copied: 'Copied.', stock: 'Stock adjusted.', picture: 'Picture added.' },
  broken: { title: 'This page broke', what: 'The rest of the console works. Load the page again; if it breaks again, tell who runs this house.', reload: 'Load again' },
  again: { title: 'Your session has ended', what: 'Sign in again to go on. What is on the page stays.', other: 'Another account' },
  signIn: {
    title: 'Sign in', who: 'For operators and administrators.', notOperator: 'This account may not use the console', notOperatorWhy: '{name} is signed in, but is neither an operator nor an administrator. An administrator can change that.',
    asOther: 'Sign in as somebody else',
  },
  setup: {
    title: 'First administrator', what: 'This house has no administrator yet. Whoever started the program can make one.', codeHelp: 'The program printed it when it started. It is good once.', nameHelp: '2 to 40 letters, digits, dots, hyphens.',
    passwordHelp: '8 to 128 characters, hard to guess.', make: 'Make the administrator', done: 'The house has its administrator.',
  },
  notFound: { title: 'There is no such page', what: 'The address may be wrong, or what it named is gone.' },
  forbidden: { title: 'Not for this account', what: 'Only administrators may open this page.' },
  overview: {
    live: 'Live', noLive: 'No sale is live.', next: 'Next', noNext: 'No sale is scheduled.', drafts: 'Drafts', past: 'Past', noPast: 'No sale has ended yet.', check: 'Terms and readiness', inDays: '{n} d {time}',
  },
  status: {
    phase: { draft: 'Draft', upcoming: 'Upcoming', open: 'Open', sold_out: 'Sold out', paused: 'Paused', ended: 'Ended', entry: 'Taking entries', drawn: 'Drawn' },
    order: { created: 'Awaiting payment', paid: 'Paid', shipped: 'Shipped', done: 'Delivered', refunding: 'Refunding', refunded: 'Refunded', cancelled: 'Cancelled' },
    product: { draft: 'Draft', on_sale: 'On sale', withdrawn: 'Withdrawn' },
    payment: { started: 'Started', paid: 'Paid', failed: 'Failed', closed: 'Closed', refunding: 'Refunding', refunded: 'Refunded' },
    refund: { pending: 'Under way', done: 'Given back', refused: 'Refused' },
    delivery: { pending: 'Waiting', failed: 'Will be tried again', delivered: 'Delivered', parked: 'Given up' },
    draw: { planned: 'Planned', open: 'Taking entries', closed: 'Entries closed', drawn: 'Drawn' },
    webhook: { ok: 'Arrives', failing: 'Failing', unused: 'Not used yet', off: 'Switched off' },
  },
  products: {
    new: 'New product', import: 'Import', exportCsv: 'Export CSV', exportJsonl: 'Export JSON Lines', prefix: 'Title begins with', picture: 'Picture', skus: 'SKUs', none: 'No products yet. Make one, or import a list.', noneFound: 'No product fits.',
  },
  product: {
    one: 'Product', about: 'About', record: 'Record', code: 'Code', codeHelp: 'Your own name of it. Without one it is the id.', description: 'Description', descriptionHelp: 'Plain text. It is shown as it is typed.',
    firstSku: 'First SKU', firstSkuNote: 'What is bought: a product has one SKU for each variant.', make: 'Create product', publish: 'Publish', publishEffect: 'The shop shows the product, and it can be bought at once.',
    withdraw: 'Withdraw', withdrawEffect1: 'The shop no longer shows the product, and nobody can order it from the catalog.', withdrawEffect2: 'Orders that exist stay. You can publish it again.', sell: 'New sale of it',
  },
  sku: {
    add: 'Add a SKU', edit: 'SKU {code}', code: 'SKU code', codeHelp: 'Unique over all products.', name: 'Variant', nameHelp: 'May be empty when there is only one.', currency: 'Currency', currencyHelp: 'Three capital letters, such as CNY.',
    first: 'First stock', note: 'Prices and stock on hand. Stock is changed by movements, so that it is always known why.',
  },
  stock: {
    adjust: 'Adjust stock', of: 'Stock of {code}', now: 'On hand:', delta: 'Add or remove', deltaHelp: 'Units to add; with a minus, to remove.', noteHelp: 'Kept in the ledger: a delivery, a count, a breakage.', needDelta: 'A whole number other than 0.',
    ledger: 'Movements', ledgerOf: 'Movements of {code}', units: 'Units', what: 'What', ref: 'For',
    reasons: { create: 'First stock', adjust: 'Adjusted', import: 'Imported', order: 'Ordered', cancel: 'Cancelled order', refund: 'Refunded order', sale: 'Given to a sale', release: 'Back from a sale' },
  },
  pictures: {
    title: 'Pictures', note: 'The first is the one that lists show.', none: 'No pictures yet.', add: 'Add a picture', help: 'PNG, JPEG or WebP, at most 512 KiB.', kind: 'Not a PNG, JPEG or WebP picture.', tooLarge: 'It has {size} KiB, allowed are 512.',
    alt: 'What it shows', altHelp: 'For those who cannot see it.', needAlt: 'Say what the picture shows.', noAlt: 'Without a description', preview: 'The picture before it is sent', send: 'Send picture', sending: 'Sending the picture', remove: 'Delete',
    removeEffect: 'The picture disappears from the shop at once.',
  },
  stale: {
    title: 'Somebody was faster', what: 'This was changed while you worked on it. Nothing of yours is lost.', base: 'Before', theirs: 'Now', mine: 'Yours', elsewhere: 'What changed is not on this form.', keep: 'Save mine over it', take: 'Take theirs',
  },
  diff: { before: 'Before', after: 'After', none: 'Nothing recorded.' },
  import: {
    title: 'Import products', file: 'File', fileHelp: 'CSV with a first line of column names, or JSON Lines. One SKU with its product on a line; what an export has can be imported.', needFile: 'Choose a file first.',
    mode: 'When lines are refused', all: 'All or nothing', allHelp: 'One bad line, and nothing is imported.', partial: 'Import the good lines', partialHelp: 'Bad lines are listed and can be saved. The choice while a sale runs.',
    stock: 'Stock of SKUs that exist', keep: 'Keep', keepHelp: 'Stock in the file counts for new SKUs only.', set: 'Set', setHelp: 'Stock becomes what the file says.',
    start: 'Import', progress: 'Import', sending: 'Sending the file…', working: 'The server reads and checks it…', well: 'Imported', inPart: 'Imported in part', lines: 'Lines', failed: 'Refused', productsCreated: 'New products',
    productsChanged: 'Changed products', skusCreated: 'New SKUs', skusChanged: 'Changed SKUs', stockChanged: 'Stock set', refused: 'Refused lines: {n}', refusedAll: 'Nothing was imported. Mend these lines and import the file again.',
    refusedPart: 'All other lines are imported. Save these lines, mend them and import them by themselves.', first: 'These are the first 100 errors; there may be more.', keepRefused: 'Save the refused lines', again: 'Another file', errors: 'Errors by line',
    line: 'Line', field: 'Column', allowed: 'Allowed', given: 'Given', empty: '(empty)',
  },
  sales: { new: 'New sale', show: 'Show', all: 'All sales', notOver: 'Not over yet', none: 'No sales yet.' },
  sale: {
    one: 'Sale', live: 'Live', openLive: 'Live page', terms: 'Terms', rehearsal: 'Rehearsal', drafted: 'Draft saved. Schedule it when it is right.', editTitle: 'Edit: {title}',
    schedule: 'Schedule', scheduled: 'Scheduled.', scheduleEffect1: '{n} units leave the stock on hand and belong to the sale.', scheduleEffect2: 'The shop shows the sale, and it opens by itself at its start.', scheduleEffect3: 'SKU, units and mode are fixed from then on; units can be topped up or withdrawn.',
    duplicate: 'Duplicate', duplicated: 'A draft with the same terms.', duplicateWhat: 'A new draft with the same terms and a time of its own. Nothing is scheduled.',
    rehearse: 'Rehearse', rehearsalMade: 'The rehearsal is ready.', rehearseWhat: 'A copy of the sale for invented buyers. It takes no stock, moves no money, and customers do not see it.', startsIn: 'Starts in', lasts: 'Lasts', asTheSale: 'As the sale if left out.',
  },
  saleForm: {
    what: 'What', whatNote: 'What is sold, and how it is given.', sku: 'SKU', skuHelp: 'What the buyer gets.', skuSearch: 'Type how the product’s title begins', title: 'Title of the sale', titleHelp: 'Buyers see it.', price: 'Price of one unit',
    priceUsual: 'Usual price: {price}', mode: 'Mode', race: 'Race', raceHelp: 'First come, first served.', draw: 'Draw', drawHelp: 'Everybody who entered in time has a chance; the draw can be checked by anyone.',
    when: 'When', zone: 'Times are those of {zone}.', starts_at: 'Starts', entriesFrom: 'Entries from', ends_at: 'Ends', draw_at: 'Draw', drawAtHelp: 'Entries close and winners are drawn.', drawEndsHelp: 'Until then units that come back go to the next in line.',
    pay_within: 'Time to pay', payHelp: 'Then an unpaid order is cancelled, and its units come back.',
    howMany: 'How many', units: 'Units', unitsFixed: 'Fixed since it was scheduled. Top up or withdraw on the live page.', onHand: 'On hand: {n}', per_buyer: 'Limit for each buyer', perBuyerHelp: 'Units, over all his orders in this sale.',
    waiting_list: 'Waiting list', waitingListHelp: 'After sold out buyers may wait for units that come back.',
    who: 'Who', whoNote: 'How buyers are let in, and what slows robots down.', whoDraw: 'In a draw nobody gains by being early or often, so there is neither a waiting room nor a brake.',
    room: 'Waiting room', roomHelp: 'Buyers get a place and are let in at a steady pace.', order: 'Order', random: 'By lot', randomHelp: 'All who wait at the start are shuffled; later ones queue behind.', arrival: 'By arrival', arrivalHelp: 'Who comes first is let in first.',
    per_second: 'Let in each second', paceHelp: 'At this pace, as many as the units allow are in after {s} seconds.', multiple: 'Let in for each free unit', multipleHelp: 'How many may be in at once for one unit.', per_address: 'Places for one address', perAddressHelp: '0: no limit.',
    brake: 'Brake against robots', brakeNone: 'None', brakeNoneHelp: 'No challenge.', brakeWork: 'Proof of work', brakeWorkHelp: 'The browser computes a little. Nobody has to do anything.', brakePicture: 'Picture', brakePictureHelp: 'Letters to read, with computing as the way without sight.',
    work_bits: 'Hardness', workBitsHelp: '8 to 24 bits. Each bit doubles the work; 16 bits are about 65,000 tries.', token_needed: 'Admission token', tokenHelp: 'A purchase needs a token that only a signed-in buyer of this sale gets.',
    fixed: 'Cannot be changed any more.', draft: 'Save as draft',
  },
  dryRun: {
    title: 'Dry run', note: 'The server checks while you type. Nothing is kept.', idle: 'Not checked yet.', checking: 'Checking…', good: 'These terms are allowed.', problems: 'To mend: {n}', away: 'Cannot be checked right now.', warnings: 'Think about it',
    summary: 'In short', until: 'until', each: 'Each buyer: at most {n}, {minutes} minutes to pay', room: '{order}, {pace} a second', roomLasts: 'The waiting room has let in all it may after {s} s', lastPayment: 'Last payment by',
  },
  warnings: {
    units_short: 'More is planned than the {n} on hand; so it could not be scheduled.',
    currency_differs: 'The price is in another currency than the SKU’s.',
    price_above: 'The price is above the SKU’s usual one.',
    no_brake: 'Nothing slows robots down, and a crowd is likely to come.',
    price_zero: 'The units are given away for nothing.',
    starts_in_past: 'The start has passed: the sale opens the moment it is scheduled.',
    starts_soon: 'It starts in less than a minute.',
    pay_beyond_end: 'The time to pay is longer than the sale lasts: units that nobody paid for come back after the end, and nobody gets them.',
    room_slow: 'At this pace the waiting room takes very long to let in as many as it may.',
    room_longer_than_sale: 'The sale ends before the waiting room has let in as many as it may.',
    same_sku: 'The same SKU is sold at the same time elsewhere.',
  },
  readiness: { title: 'Readiness', note: 'Could this node start the sale now?', ready: 'Ready.', notReady: 'Not ready.' },
  draw: {
    title: 'Draw', note: 'The hash was published before the entries; with the seed anyone can repeat the draw.', entries: 'Entries', winners: 'Winners', seedHash: 'Hash of the seed', seed: 'Seed', seedLater: 'Published with the result.', digest: 'Digest of the entries',
    entriesFile: 'Entries', resultsFile: 'Results',
  },
  acts: {
    title: 'What was done', none: 'Nothing yet.',
    names: { create: 'Drafted', schedule: 'Schedule', pause: 'Pause', resume: 'Resume', stop: 'Emergency stop', top_up: 'Top up', withdraw: 'Withdraw units', force_sold_out: 'Force sold out', end: 'End the sale', change: 'Terms changed', rehearse: 'Rehearsal made', void: 'Reservation voided', duplicate: 'Duplicated' },
  },
  ledger: {
    title: 'Stock', note: 'Every unit is in exactly one place.', offered: 'offered', available: 'available', reserved: 'reserved', sold: 'sold', equals: 'equals', plus: 'plus', off: 'Does not add up: {sum} instead of {offered}.', withdrawn: 'withdrawn', minus: 'less',
  },
  books: { balanced: 'The books balance, proved against SQL.', off: 'The books do not balance', prove: 'Prove and repair now', proved: 'Loaded anew from SQL and proved.' },
  connection: { live: 'Live', polling: 'Asking every 3 s', away: 'No connection' },
  live: {
    back: 'Sale', nowTitle: 'Now', nodes: 'Nodes: {n}', at: 'as of', attempts: 'Attempts', attemptsAll: 'Attempts so far', attemptsRate: 'Attempts', ordersRate: 'Orders', ordersSettled: 'Orders settled', ordersPaid: 'Paid', ordersCancelled: 'Cancelled', gateWaiting: 'Waiting for settlement',
    notWarm: 'This node has not loaded the sale yet.', plotAttempts: 'Attempts and orders', plotOutcomes: 'Outcomes by reason', plotStock: 'Stock', plotLatency: 'Latency of purchases', plotQueue: 'Waiting room', outcomes: 'Outcomes', outcomesNote: 'Of {n} attempts since the start.',
    latency: 'Latency', latencyNote: 'Purchases answered in the last 10 s.', max: 'max', queue: 'Waiting room', waiting: 'Waiting', admitted: 'Let in', served: 'Served', pace: 'Pace', line: 'Waiting list', lineWaiting: 'Waiting', lineOffered: 'Offered',
    asTable: 'Show as a table', hideTable: 'Hide the table', tableCaption: 'The last ten minutes, every tenth second, newest first', refused: 'Refused',
  },
  plot: { series: '{label}: now {now}, highest {high}, lowest {low}.', nothing: '{label}: nothing yet.' },
  outcomes: {
    won: 'Won', repeated: 'Repeated answer', sold_out: 'Sold out', limit_reached: 'Limit reached', not_open: 'Not open', paused: 'Paused', admission: 'No admission', unavailable: 'Busy', other: 'Other',
  },
  levers: {
    label: 'Levers', title: '{act}: {sale}', done: 'Done: {act}', isStopped: 'Stopped', units: 'Units', endWord: 'end',
    pause1: 'No purchase is taken until you resume. Buyers are told that the sale is paused.', pause2: 'Reservations and orders that exist stay, and can be paid.', pause3: 'The end of the sale does not move.',
    resume1: 'Purchases are taken again at once, on every node.', resume2: 'The forced sold out is lifted.', resume3: 'Buyers’ pages open by themselves.',
    topUp1: 'Units leave the stock on hand and can be bought at once.', topUp2: 'A sale that was sold out opens again; who waits in line comes first.', topUpHelp: 'How many to add.',
    withdraw1: 'Free units leave the sale and go back to the stock on hand.', withdraw2: 'What is reserved or sold stays.', withdrawHelp: 'Free now: {n}',
    soldOut1: 'Every further purchase is refused as sold out, whatever is left.', soldOut2: 'Reservations and orders stay. Resume lifts it.',
    end1: 'The sale ends now, and cannot be opened again.', end2: 'Free units go back to the stock on hand (now {n}).', end3: 'Orders that exist stay, and can be paid within their time.',
    stop1: 'The gate closes at once, on every node: no purchase, no grant from a draw or the waiting list.', stop2: 'Reservations and orders that exist stay, and can be paid.', stop3: 'Resume opens it again.',
  },
  order: {
    lines: 'Lines', quantity: 'Quantity', sum: 'Sum', payments: 'Payments', noPayments: 'Nobody began to pay.', paidBy: 'paid this order', providerRef: 'Provider’s number', tries: 'Tries: {n}', record: 'Record', source: 'Bought in', payBy: 'Pay by', timeline: 'Timeline',
    sources: { shop: 'Catalog', sale: 'Sale', rehearsal: 'Rehearsal' }, by: { buyer: 'Buyer', shop: 'Shop', system: 'System' },
    cancel: 'Cancel order', cancel1: 'The order ends, and its units can be bought by others.', cancel2: 'Money that still arrives for it is given back.', cancelled: 'Cancelled.',
    refund: 'Refund', refund1: 'All money of the order goes back to the buyer, by the provider.', refund2: 'The order is refunding until the provider confirms. It cannot be taken back.', refunding: 'The refund is under way.',
    refundPayment: 'Give this payment back', refundPayment1: 'The money of this one payment goes back to the payer.', complete: 'Delivered', complete1: 'The order is recorded as delivered. That is its end.', completed: 'Recorded as delivered.',
    ship: 'Ship', ship1: 'The buyer sees carrier and number. A shipped order cannot be cancelled.', shipped: 'Recorded as shipped.', carrier: 'Carrier', tracking: 'Number of the parcel', moved: 'The order is now “{state}”, so this is not possible. {why}',
  },
  orders: {
    title: 'Order …{id}', one: 'Order', id: 'Order', buyer: 'Buyer', from: 'From', to: 'Before', what: 'What', total: 'Total', more: 'and {n} more', shop: 'Catalog', none: 'No order fits.', ofBuyer: 'All orders of this buyer',
  },
  webhook: {
    about: 'Other systems are told of orders, sales and draws by signed requests. Deliveries of one order come one after the other; what does not arrive is tried for three days.', one: 'Webhook', new: 'New webhook', make: 'Create', none: 'No webhooks yet.',
    url: 'Address', urlHelp: 'An https address that everybody can reach.', events: 'Events', description: 'Description', rehearsals: 'Tell of rehearsals, too', enabled: 'Switched on', needUrl: 'An address that begins with https://', needEvents: 'Choose at least one.',
    health: 'Health', last: 'Last delivery', failures: 'Failed attempts in a row: {n}', failuresRow: 'Failures in a row', failingSince: 'Failing since', lastError: 'Last error', waiting: 'Waiting deliveries', oldSecret: 'The old secret signs until',
    ping: 'Send a ping', pinged: 'A ping is on its way.', rotate: 'New secret', rotate1: 'A new secret is made and shown once.', rotate2: 'For 24 hours the old one signs too, so that the receiver has time to change.', delete: 'Delete',
    delete1: 'Nothing more is sent there, and its log is gone.', delete2: 'What was waiting is not sent.', on: 'Switch on', off: 'Switch off', onEffect: 'It is told of what happens from now on; what was waiting goes on.', offEffect: 'It is told of nothing that happens meanwhile.',
    deliveries: 'Deliveries', delivery: 'Delivery', type: 'Event', subject: 'About', attempts: 'Attempts', due: 'Next try', giveUp: 'Given up at', noDeliveries: 'No deliveries.', noAttempts: 'Not tried yet.', noAnswer: 'No answer', payload: 'Body as it is sent',
    replay: 'Send again', replaying: 'It will be sent again.', replayFrom: 'Send again from a time', replayWhat: 'What happened within this time is sent again under the same ids, and what was given up. The receiver must know repeats by the webhook-id.',
    toHelp: 'Until now if left out.', replayed: 'Deliveries to be sent again: {n}', replayedMore: 'Deliveries to be sent again: {n}. There are more; ask for a later time.',
  },
  secret: {
    title: 'The signing secret', what: 'This is shown once. Keep it where the receiver reads its secrets.', verify: 'Standard Webhooks: the receiver checks webhook-signature over webhook-id, webhook-timestamp and the body.', done: 'I have kept it',
  },
  audit: {
    actor: 'Who', subject: 'To what', action: 'Act', change: 'What changed', show: 'Before and after', from: 'from', actors: { system: 'System', visitor: 'Visitor' },
    actions: {
      product_create: 'Product made', product_update: 'Product changed', sku_create: 'SKU added', sku_update: 'SKU changed', sku_adjust: 'Stock adjusted', picture_create: 'Picture added', picture_remove: 'Picture deleted', catalog_import: 'Products imported',
      user_created: 'Account made', user_signed_up: 'Signed up', user_set_up: 'First administrator', user_foreign_seen: 'Account of another shop seen', user_disabled: 'Account shut', user_enabled: 'Account opened', user_roles_changed: 'Roles changed',
      user_password_changed: 'Password changed', user_password_set: 'Password set', session_revoked: 'Session ended', session_others_revoked: 'Other sessions ended', session_reused: 'Stolen session ended',
      webhook_created: 'Webhook made', webhook_changed: 'Webhook changed', webhook_deleted: 'Webhook deleted', webhook_secret_rotated: 'Webhook secret replaced',
    },
  },
}

/** The shape of words, with every text a string. */
type Texts<T> = { [K in keyof T]: T[K] extends string ? string : Texts<T[K]> }
export type Words = Texts<typeof words>
export const en: Words = words
