import type { Words } from './en'

// 控制台的全部中文文字。

export const zh: Words = {
  app: { name: 'Levee 控制台' },
  nav: {
    label: '主导航', skip: '跳到内容', open: '菜单', language: '语言', theme: '外观', shop: '商店',
    overview: '总览', sales: '抢购', products: '商品', orders: '订单', webhooks: 'Webhook', audit: '审计',
  },
  theme: { auto: '自动', light: '浅色', dark: '深色' },
  act: {
    cancel: '取消', save: '保存', edit: '编辑', undo: '撤销修改', search: '搜索', retry: '重试', refresh: '刷新', copy: '复制', signIn: '登录', signOut: '退出',
  },
  word: { yes: '是', no: '否', minutes: '分钟', seconds: '秒', nMinutes: '{n} 分钟', perSecond: '/秒' },
  state: {
    away: '服务器没有响应。您输入的内容都还在；服务器恢复后页面会自动继续。', loading: '加载中…', nothing: '暂无内容。',
  },
  filter: { all: '全部' },
  pager: { label: '分页', previous: '上一页', next: '下一页' },
  field: {
    name: '名称', nameOrPhone: '用户名或手机号', password: '密码', code: '一次性代码', title: '标题', state: '状态', phase: '阶段', price: '价格', onHand: '库存', at: '时间', by: '操作人', id: '编号',
    version: '版本', created: '创建时间', updated: '更新时间', acts: '操作',
  },
  form: {
    optional: '（可选）', reason: '原因', reasonHelp: '会与您的名字和时间一起保存。', needed: '请填写。', needReason: '请用几个字说明原因。', needUnits: '请输入 1 到 {max} 的整数。',
    needTyped: '请输入“{word}”以继续。', typeWord: '请输入“{word}”以确认', needWhole: '请输入整数。', needNumber: '请输入数字。', needAmount: '请输入 {currency} 金额，例如 129.00。', needTime: '请输入日期和时间。',
    drop: '选择文件，或拖到这里。',
  },
  problem: { request: '请求号', allowed: '允许：{allowed}。', allowedGiven: '允许：{allowed}。输入：{given}', other: '服务器拒绝了请求（{status}）。' },
  problems: {
    unreachable: '无法连接服务器。', unauthenticated: '未登录，或用户名与密码不符。', forbidden: '您的账号没有此权限。', not_found: '不存在，或您无权查看。',
    conflict: '与当前状态冲突。', gone: '已经不存在。', invalid: '有内容不符合要求。', too_many_requests: '请求过多，请稍候再试。',
    unavailable: '服务器繁忙，请稍后重试。', timeout: '处理超时，请重试。', too_large: '内容过大。', unsupported_media_type: '不支持这种文件。',
    out_of_stock: '库存不足。', internal: '服务器出错，请凭请求号查找原因。', idempotency_mismatch: '之前的请求内容不同，请重新加载页面。',
    idempotency_running: '之前的同一请求仍在处理。', already_paid: '已经支付。', payment_deadline_over: '支付期限已过。', ended: '抢购已结束。',
  },
  done: { saved: '已保存。', created: '已创建。', removed: '已删除。', copied: '已复制。', stock: '库存已调整。', picture: '图片已添加。' },
  broken: { title: '页面出错', what: '控制台的其他部分仍可使用。请重新加载；若再次出错，请联系管理员。', reload: '重新加载' },
  again: { title: '登录已失效', what: '请重新登录以继续，页面上的内容会保留。', other: '换一个账号' },
  signIn: {
    title: '登录', who: '供运营人员和管理员使用。', notOperator: '该账号不能使用控制台', notOperatorWhy: '{name} 已登录，但既不是运营人员也不是管理员。管理员可以更改。',
    asOther: '用其他账号登录',
  },
  setup: {
    title: '首位管理员', what: '系统还没有管理员。启动程序的人可以创建一位。', codeHelp: '程序启动时打印的代码，只能使用一次。', nameHelp: '2 到 40 个字母、数字、点或连字符。',
    passwordHelp: '8 到 128 个字符，不易猜到。', make: '创建管理员', done: '管理员已存在。',
  },
  notFound: { title: '页面不存在', what: '地址可能有误，或内容已被删除。' },
  forbidden: { title: '该账号无权访问', what: '只有管理员可以打开此页面。' },
  overview: {
    live: '进行中', noLive: '没有进行中的抢购。', next: '即将开始', noNext: '没有已排期的抢购。', drafts: '草稿', past: '已结束', noPast: '还没有结束的抢购。', check: '条款与就绪检查', inDays: '{n} 天 {time}',
  },
  status: {
    phase: { draft: '草稿', upcoming: '未开始', open: '进行中', sold_out: '售罄', paused: '已暂停', ended: '已结束', entry: '报名中', drawn: '已抽签' },
    order: { created: '待支付', paid: '已支付', shipped: '已发货', done: '已送达', refunding: '退款中', refunded: '已退款', cancelled: '已取消' },
    product: { draft: '草稿', on_sale: '在售', withdrawn: '已下架' },
    payment: { started: '已发起', paid: '已支付', failed: '失败', closed: '已关闭', refunding: '退款中', refunded: '已退款' },
    refund: { pending: '处理中', done: '已退回', refused: '被拒绝' },
    delivery: { pending: '等待中', failed: '将重试', delivered: '已送达', parked: '已放弃' },
    draw: { planned: '未开始', open: '报名中', closed: '报名截止', drawn: '已抽签' },
    webhook: { ok: '正常', failing: '持续失败', unused: '尚未使用', off: '已关闭' },
  },
  products: {
    new: '新建商品', import: '导入', exportCsv: '导出 CSV', exportJsonl: '导出 JSON Lines', prefix: '标题开头', picture: '图片', skus: 'SKU', none: '还没有商品。新建一个，或导入清单。', noneFound: '没有符合的商品。',
  },
  product: {
    one: '商品', about: '基本信息', record: '记录', code: '编码', codeHelp: '您自己的编码；留空则使用编号。', description: '描述', descriptionHelp: '纯文本，按输入原样显示。',
    firstSku: '首个 SKU', firstSkuNote: '购买的单位：每种规格一个 SKU。', make: '创建商品', publish: '上架', publishEffect: '商品会立即出现在商店并可购买。',
    withdraw: '下架', withdrawEffect1: '商店不再显示该商品，也不能再从目录下单。', withdrawEffect2: '已有订单不受影响，可以重新上架。', sell: '为其新建抢购',
  },
  sku: {
    add: '添加 SKU', edit: 'SKU {code}', code: 'SKU 编码', codeHelp: '在所有商品中唯一。', name: '规格', nameHelp: '只有一种规格时可留空。', currency: '货币', currencyHelp: '三个大写字母，例如 CNY。',
    first: '初始库存', note: '价格与库存。库存通过变动记录修改，因此总能知道原因。',
  },
  stock: {
    adjust: '调整库存', of: '{code} 的库存', now: '现有：', delta: '增加或减少', deltaHelp: '要增加的数量；减少请加负号。', noteHelp: '记入台账：到货、盘点、损坏等。', needDelta: '请输入非 0 的整数。',
    ledger: '变动记录', ledgerOf: '{code} 的变动记录', units: '数量', what: '事项', ref: '关联',
    reasons: { create: '初始库存', adjust: '调整', import: '导入', order: '下单', cancel: '取消订单', refund: '退款', sale: '划入抢购', release: '抢购退回' },
  },
  pictures: {
    title: '图片', note: '列表显示第一张。', none: '还没有图片。', add: '添加图片', help: 'PNG、JPEG 或 WebP，不超过 512 KiB。', kind: '不是 PNG、JPEG 或 WebP 图片。', tooLarge: '大小为 {size} KiB，最多 512 KiB。',
    alt: '图片内容', altHelp: '供看不到图片的人阅读。', needAlt: '请说明图片内容。', noAlt: '没有说明', preview: '发送前的预览', send: '上传图片', sending: '正在上传图片', remove: '删除',
    removeEffect: '图片会立即从商店消失。',
  },
  stale: {
    title: '已被他人修改', what: '您编辑期间内容被修改了。您的输入没有丢失。', base: '原来', theirs: '现在', mine: '您的', elsewhere: '修改的内容不在此表单中。', keep: '用我的覆盖', take: '采用对方的',
  },
  diff: { before: '之前', after: '之后', none: '没有记录。' },
  import: {
    title: '导入商品', file: '文件', fileHelp: '首行为列名的 CSV，或 JSON Lines。每行一个 SKU 及其商品；导出的文件可以直接导入。', needFile: '请先选择文件。',
    mode: '有行被拒绝时', all: '全部或不导入', allHelp: '有一行错误就不导入任何内容。', partial: '导入正确的行', partialHelp: '错误的行会列出并可保存。抢购进行时请选此项。',
    stock: '已有 SKU 的库存', keep: '保持', keepHelp: '文件中的库存只用于新 SKU。', set: '设置', setHelp: '库存改为文件中的数量。',
    start: '导入', progress: '导入', sending: '正在上传文件…', working: '服务器正在读取和检查…', well: '导入完成', inPart: '部分导入', lines: '行数', failed: '被拒绝', productsCreated: '新商品',
    productsChanged: '修改的商品', skusCreated: '新 SKU', skusChanged: '修改的 SKU', stockChanged: '设置库存', refused: '被拒绝的行：{n}', refusedAll: '没有导入任何内容。请修正这些行后重新导入。',
    refusedPart: '其他行均已导入。请保存这些行，修正后单独导入。', first: '这是前 100 个错误，可能还有更多。', keepRefused: '保存被拒绝的行', again: '换一个文件', errors: '按行列出的错误',
    line: '行', field: '列', allowed: '允许', given: '输入', empty: '（空）',
  },
  sales: { new: '新建抢购', show: '显示', all: '全部抢购', notOver: '未结束', none: '还没有抢购。' },
  sale: {
    one: '抢购', live: '实时', openLive: '实时页面', terms: '条款', rehearsal: '演练', drafted: '草稿已保存，确认无误后请排期。', editTitle: '编辑：{title}',
    schedule: '排期', scheduled: '已排期。', scheduleEffect1: '{n} 件从库存划归该抢购。', scheduleEffect2: '商店会显示该抢购，并在开始时间自动开放。', scheduleEffect3: '此后 SKU、数量和模式固定；可以追加或撤回数量。',
    duplicate: '复制', duplicated: '已创建相同条款的草稿。', duplicateWhat: '条款相同、时间另定的新草稿，不会自动排期。',
    rehearse: '演练', rehearsalMade: '演练已就绪。', rehearseWhat: '供虚拟买家使用的副本：不占库存，不动资金，顾客看不到。', startsIn: '多久后开始', lasts: '持续', asTheSale: '留空则与原抢购相同。',
  },
  saleForm: {
    what: '卖什么', whatNote: '商品与发放方式。', sku: 'SKU', skuHelp: '买家得到的商品。', skuSearch: '输入商品标题的开头', title: '抢购标题', titleHelp: '买家可见。', price: '单价',
    priceUsual: '平时价格：{price}', mode: '模式', race: '抢购', raceHelp: '先到先得。', draw: '抽签', drawHelp: '按时报名者都有机会，任何人都可以验证结果。',
    when: '什么时候', zone: '时间按 {zone} 显示。', starts_at: '开始', entriesFrom: '报名开始', ends_at: '结束', draw_at: '抽签', drawAtHelp: '报名截止并抽出中签者。', drawEndsHelp: '在此之前退回的名额给下一位。',
    pay_within: '支付期限', payHelp: '超时未付的订单会取消，名额退回。',
    howMany: '多少', units: '数量', unitsFixed: '排期后固定。请在实时页面追加或撤回。', onHand: '库存：{n}', per_buyer: '每人限购', perBuyerHelp: '在本次抢购的全部订单中合计。',
    waiting_list: '候补名单', waitingListHelp: '售罄后买家可以候补退回的名额。',
    who: '谁可以买', whoNote: '买家如何进入，以及如何减缓机器人。', whoDraw: '抽签中早到或多次都没有好处，因此没有等候室和验证。',
    room: '等候室', roomHelp: '买家排队，按固定速度进入。', order: '顺序', random: '随机', randomHelp: '开始时等候的人随机排序，之后的人排在后面。', arrival: '先到先进', arrivalHelp: '先到的人先进入。',
    per_second: '每秒放行', paceHelp: '按此速度，{s} 秒后名额允许的人数全部进入。', multiple: '每件可放行人数', multipleHelp: '每件剩余名额最多同时放行多少人。', per_address: '每个地址的名额', perAddressHelp: '0 表示不限。',
    brake: '防机器人', brakeNone: '无', brakeNoneHelp: '不做验证。', brakeWork: '工作量证明', brakeWorkHelp: '浏览器做少量计算，买家无需操作。', brakePicture: '图片验证', brakePictureHelp: '辨认字母；看不到的人可改用计算。',
    work_bits: '难度', workBitsHelp: '8 到 24 位。每加一位计算量翻倍；16 位在手机上约一秒。', token_needed: '准入令牌', tokenHelp: '购买需要令牌，只有登录的买家才能获得。',
    fixed: '不能再修改。', draft: '保存草稿',
  },
  dryRun: {
    title: '预检', note: '输入时服务器随时检查，不会保存任何内容。', idle: '尚未检查。', checking: '检查中…', good: '条款符合要求。', problems: '需要修正：{n}', away: '暂时无法检查。', warnings: '请留意',
    summary: '概要', until: '至', each: '每人最多 {n} 件，{minutes} 分钟内支付', room: '{order}，每秒 {pace} 人',
  },
  warnings: {
    units_short: '库存不足', currency_differs: '货币不同', price_above: '高于平时价格', no_brake: '没有防机器人措施', price_zero: '价格为零', starts_in_past: '开始时间已过', starts_soon: '即将开始', pay_beyond_end: '支付期限过长', room_slow: '等候室过慢', room_longer_than_sale: '等候时间超过抢购时长', same_sku: '同一 SKU 的另一场抢购',
  },
  readiness: { title: '就绪检查', note: '此节点现在能否开始抢购？', ready: '已就绪。', notReady: '未就绪。' },
  draw: {
    title: '抽签', note: '哈希在报名前已公布；有了种子，任何人都可以重做抽签。', entries: '报名数', winners: '中签数', seedHash: '种子的哈希', seed: '种子', seedLater: '与结果一起公布。', digest: '报名名单摘要',
    entriesFile: '报名名单', resultsFile: '结果',
  },
  acts: {
    title: '操作记录', none: '暂无。',
    names: { create: '创建草稿', schedule: '排期', pause: '暂停', resume: '恢复', stop: '紧急停止', top_up: '追加', withdraw: '撤回数量', force_sold_out: '强制售罄', end: '结束抢购', change: '修改条款', rehearse: '创建演练', void: '作废预留', duplicate: '复制' },
  },
  ledger: {
    title: '库存', note: '每一件都只在一个位置。', offered: '投放', available: '可售', reserved: '已预留', sold: '已售', equals: '等于', plus: '加', off: '对不上：{sum}，应为 {offered}。', withdrawn: '已撤回 {n} 件。',
  },
  books: { balanced: '账目平衡，已与 SQL 核对。', off: '账目不平衡', prove: '立即核对并修复', proved: '已从 SQL 重新加载并核对。' },
  connection: { live: '实时', polling: '每 3 秒查询', away: '无连接' },
  live: {
    back: '抢购', nowTitle: '此刻', nodes: '节点：{n}', at: '截至', attempts: '尝试', attemptsAll: '累计尝试', attemptsRate: '尝试', ordersRate: '订单', ordersSettled: '已成单', ordersPaid: '已支付', ordersCancelled: '已取消', gateWaiting: '等待成单',
    notWarm: '此节点尚未加载该抢购。', plotAttempts: '尝试与订单', plotOutcomes: '按原因的结果', plotStock: '库存', plotLatency: '购买延迟', plotQueue: '等候室', outcomes: '结果', outcomesNote: '开始以来共 {n} 次尝试。',
    latency: '延迟', latencyNote: '最近 10 秒内答复的购买。', max: '最大', queue: '等候室', waiting: '等候', admitted: '已放行', served: '已服务', pace: '速度', line: '候补名单', lineWaiting: '等候', lineOffered: '已提供',
    asTable: '以表格显示', hideTable: '隐藏表格', tableCaption: '最近十分钟，每十秒一行，最新在前', refused: '被拒',
  },
  plot: { series: '{label}：现在 {now}，最高 {high}，最低 {low}。', nothing: '{label}：暂无数据。' },
  outcomes: {
    won: '抢到', repeated: '重复答复', sold_out: '售罄', limit_reached: '超过限购', not_open: '未开放', paused: '已暂停', admission: '无准入', unavailable: '繁忙', other: '其他',
  },
  levers: {
    label: '控制', title: '{act}：{sale}', done: '已执行：{act}', isStopped: '已停止', units: '数量', endWord: '结束',
    pause1: '恢复之前不接受购买，买家会看到已暂停。', pause2: '已有的预留和订单保留，仍可支付。', pause3: '结束时间不变。',
    resume1: '所有节点立即恢复接受购买。', resume2: '解除强制售罄。', resume3: '买家页面会自动恢复。',
    topUp1: '从库存划出，立即可买。', topUp2: '已售罄的抢购会重新开放；候补的人优先。', topUpHelp: '追加多少件。',
    withdraw1: '剩余名额离开抢购，退回库存。', withdraw2: '已预留或已售的不变。', withdrawHelp: '目前剩余：{n}',
    soldOut1: '无论剩余多少，之后的购买都按售罄拒绝。', soldOut2: '预留和订单保留；恢复即可解除。',
    end1: '抢购立即结束，不能再开放。', end2: '剩余名额退回库存（目前 {n}）。', end3: '已有订单保留，可在期限内支付。',
    stop1: '所有节点立即关闭：不接受购买，也不发放抽签或候补名额。', stop2: '已有的预留和订单保留，仍可支付。', stop3: '恢复即可重新开放。',
  },
  order: {
    lines: '商品', quantity: '数量', sum: '小计', payments: '支付', noPayments: '尚未发起支付。', paidBy: '已支付本订单', providerRef: '渠道单号', tries: '尝试次数：{n}', record: '记录', source: '购买方式', payBy: '支付期限', timeline: '时间线',
    sources: { shop: '目录', sale: '抢购', rehearsal: '演练' }, by: { buyer: '买家', shop: '商家', system: '系统' },
    cancel: '取消订单', cancel1: '订单结束，名额可供他人购买。', cancel2: '之后到账的款项会退回。', cancelled: '已取消。',
    refund: '退款', refund1: '订单的全部款项通过支付渠道退给买家。', refund2: '渠道确认前订单为退款中，不能撤销。', refunding: '正在退款。',
    refundPayment: '退回此笔支付', refundPayment1: '此笔支付的款项退给付款人。', complete: '已送达', complete1: '订单记录为已送达，流程结束。', completed: '已记录送达。',
    ship: '发货', ship1: '买家会看到承运商和单号。发货后不能取消。', shipped: '已记录发货。', carrier: '承运商', tracking: '运单号', moved: '订单目前为“{state}”，无法执行。{why}',
  },
  orders: {
    title: '订单 …{id}', one: '订单', id: '订单', buyer: '买家', from: '起', to: '止', what: '内容', total: '合计', more: '等 {n} 项', shop: '目录', none: '没有符合的订单。', ofBuyer: '该买家的全部订单',
  },
  webhook: {
    about: '通过签名请求把订单、抢购和抽签通知其他系统。同一订单的通知依次发送；未送达的会重试三天。', one: 'Webhook', new: '新建 Webhook', make: '创建', none: '还没有 Webhook。',
    url: '地址', urlHelp: '公网可访问的 https 地址。', events: '事件', description: '说明', rehearsals: '也通知演练', enabled: '启用', needUrl: '请输入以 https:// 开头的地址', needEvents: '请至少选择一项。',
    health: '状况', last: '最近送达', failures: '连续失败：{n}', failuresRow: '连续失败', failingSince: '失败始于', lastError: '最近的错误', waiting: '等待发送', oldSecret: '旧密钥有效至',
    ping: '发送测试', pinged: '测试通知已发出。', rotate: '更换密钥', rotate1: '生成新密钥，只显示一次。', rotate2: '24 小时内旧密钥同时签名，接收方有时间更换。', delete: '删除',
    delete1: '不再发送任何通知，记录也会删除。', delete2: '等待发送的不会发出。', on: '启用', off: '关闭', onEffect: '从现在起通知新事件，等待中的继续发送。', offEffect: '关闭期间发生的事件不会通知。',
    deliveries: '通知记录', delivery: '通知', type: '事件', subject: '关于', attempts: '尝试', due: '下次尝试', giveUp: '放弃时间', noDeliveries: '没有通知。', noAttempts: '尚未尝试。', noAnswer: '无答复', payload: '发送的内容',
    replay: '重新发送', replaying: '将重新发送。', replayFrom: '从某时起重新发送', replayWhat: '该时段内的事件以及已放弃的通知会以相同编号重新发送。接收方须按 webhook-id 识别重复。',
    toHelp: '留空表示到现在。', replayed: '将重新发送 {n} 条', replayedMore: '将重新发送 {n} 条；还有更多，请选择更晚的时间。',
  },
  secret: {
    title: '签名密钥', what: '只显示这一次。请保存到接收方读取密钥的地方。', verify: 'Standard Webhooks：接收方用它核对 webhook-id、webhook-timestamp 与正文的 webhook-signature。', done: '我已保存',
  },
  audit: {
    actor: '操作人', subject: '对象', action: '操作', change: '变化', show: '前后对比', from: '来自', actors: { system: '系统', visitor: '访客' },
    actions: {
      product_create: '创建商品', product_update: '修改商品', sku_create: '添加 SKU', sku_update: '修改 SKU', sku_adjust: '调整库存', picture_create: '添加图片', picture_remove: '删除图片', catalog_import: '导入商品',
      user_created: '创建账号', user_signed_up: '注册', user_set_up: '首位管理员', user_foreign_seen: '外部商店账号首次出现', user_disabled: '停用账号', user_enabled: '启用账号', user_roles_changed: '修改角色',
      user_password_changed: '修改密码', user_password_set: '设置密码', session_revoked: '结束会话', session_others_revoked: '结束其他会话', session_reused: '结束被盗会话',
      webhook_created: '创建 Webhook', webhook_changed: '修改 Webhook', webhook_deleted: '删除 Webhook', webhook_secret_rotated: '更换 Webhook 密钥',
    },
  },
}
