// Accounts, roles and what they may, in both faces: who may what is changed in one browser and felt in another.
import { after, before, describe, test } from 'node:test'
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { Api, House, password, root, until } from './house.mjs'
import { Person, desktop, phone, story } from './people.mjs'

describe('an account in the shop', () => {
  let house
  before(async () => {
    house = await House.start()
  })
  after(() => house?.close())

  story('signed up, signed in, another password, another session ended, signed out', async () => {
    const p = await Person.open(house, { size: phone })
    await p.goto('/sign-up')
    await p.hook('name').fill('newcomer')
    await p.hook('password').fill(password)
    await p.hook('sign-up').click()
    await p.page.waitForURL((u) => u.pathname !== '/sign-up')
    await p.goto('/account')
    await p.ready('account')
    await p.hook('session').first().waitFor()
    await p.accessible('the account')

    const elsewhere = await house.signIn('newcomer')
    await p.page.reload()
    await p.ready('account')
    await until('both sessions are listed', async () => (await p.hook('session').count()) === 2)
    await p.hook('session-end').click()
    await until('one is left', async () => (await p.hook('session').count()) === 1)
    await assert.rejects(elsewhere.get('/v1/me'), { status: 401 })

    const again = await house.signIn('newcomer')
    const fresh = 'a-lantern-over-still-water-9'
    await p.hook('password-current').fill('not-the-password-8')
    await p.hook('password-new').fill(fresh)
    await p.hook('password-change').click()
    await p.page.locator('[aria-invalid="true"]').first().waitFor() // the wrong one is told, and nothing changes
    await again.get('/v1/me')
    await p.hook('password-current').fill(password)
    await p.hook('password-new').fill(fresh)
    await p.hook('password-change').click()
    await until('the other session ended', async () => again.get('/v1/me').then(() => false, (e) => e.status === 401))
    await until('the form is empty', async () => (await p.hook('password-new').inputValue()) === '')

    await p.hook('sign-out').click()
    await p.hook('sign-in-link').waitFor()
    await p.goto('/sign-in')
    await p.hook('name').fill('newcomer')
    await p.hook('password').fill(password)
    await p.hook('sign-in').click()
    await p.hook('form-error').waitFor() // the old one is good no more
    await p.hook('password').fill(fresh)
    await p.hook('sign-in').click()
    await p.hook('account-link').waitFor()
    await p.close()
  })
})

describe('too many tries', () => {
  let house
  before(async () => {
    house = await House.start({ limits: { rates: { sign_in_account: '2/h' } } })
  })
  after(() => house?.close())

  story('the third wrong password in an hour is not looked at, and the page says to wait', async () => {
    await house.customer('forgetful')
    const p = await Person.open(house)
    await p.goto('/sign-in')
    await p.hook('name').fill('forgetful')
    const tried = async (word) => {
      await p.hook('password').fill(word)
      const answer = p.page.waitForResponse((r) => r.url().endsWith('/v1/sessions'))
      await p.hook('sign-in').click()
      return (await answer).status()
    }
    for (const status of [401, 401, 429]) assert.equal(await tried('not-the-password-8'), status)
    await p.page.locator('[data-test="form-error"][data-code="too_many_requests"]').waitFor()
    await p.accessible('too many tries')
    assert.equal(await tried(password), 429, 'the right one is not looked at either')
    assert.equal(await p.hook('account-link').count(), 0)
    await p.close()
  })
})

describe('who may what, in the console', () => {
  let house, admin, order
  before(async () => {
    house = await House.start()
    const sale = await house.sale({ units: 5 })
    const buyer = await house.customer('payer')
    ;({ order } = await buyer.buy(sale.id))
    await house.pay(buyer, order)
    await until('it is paid', async () => (await buyer.get(`/v1/orders/${order}`)).state === 'paid')
    admin = await Person.open(house, { size: desktop })
    await admin.console('/console/', 'administrator')
    await admin.hook('page-overview').waitFor()
  })
  after(async () => {
    await admin?.leave()
    await house?.close()
  })

  const go = async (p, path, page) => {
    await p.page.goto(path)
    await p.hook(page).waitFor()
  }
  const row = (p, table, id) => p.hook(table).locator(`[data-test="row"][data-id="${id}"]`)
  const idOf = async (name) => (await house.admin.get(`/v1/users?name=${name}`)).items.find((u) => u.name === name).id
  /** What the navigation shows, in its order. */
  const menu = (p) => p.page.locator('#nav [data-test^="nav-"]').evaluateAll((l) => l.map((e) => e.dataset.test.slice(4)))

  test('what the console changes is behind a permission, and each that it names is one', async () => {
    const names = new Set((await house.admin.get('/v1/resources')).items.map((r) => r.name))
    const source = join(root, 'ui', 'console', 'src')
    const texts = Object.fromEntries(
      (await readdir(source, { recursive: true })).filter((f) => /\.(vue|ts)$/.test(f) && !f.startsWith('words')).map((f) => [f, readFileSync(join(source, f), 'utf8')]),
    )
    const used = new Set()
    for (const [file, text] of Object.entries(texts))
      // needs="one", :needs="['one', 'other']", needs: 'one', may('one')
      for (const [, one, several] of text.matchAll(/(?<!:)\bneeds="([\w.]+)"|(?::needs="|\bneeds: |\bmay\()([^)}"\n]*)/g))
        for (const name of one ? [one] : [...several.matchAll(/'([\w.]+)'/g)].map((m) => m[1])) {
          assert.ok(names.has(name), `${file} goes by ${name}, which is no permission`)
          used.add(name)
        }
    assert.ok(used.size > 50, `only ${used.size} are found`)
    const { paths } = JSON.parse(readFileSync(join(root, 'ui', 'openapi.json'), 'utf8'))
    const bare = ['signIn', 'signInSecond', 'enrolAtSignIn', 'beginSignIn', 'setUp', // for who is not signed in
      'beginStepUp', 'stepUp'] // asked for by the server, of whoever is
    for (const [, method, path] of texts['api.ts'].matchAll(/api\.(POST|PUT|PATCH|DELETE)\('([^']+)'/g)) {
      const { operationId: id } = paths[path][method.toLowerCase()]
      assert.ok(bare.includes(id) || used.has(id) || (id === 'createUser' && used.has('accounts.create')), `${id} is shown to who may not use it`)
    }
    for (const id of ['createPicture', 'importProducts']) assert.ok(used.has(id), id) // these are sent as files
  })

  story('an administrator makes a role with two permissions and an account that has it', async () => {
    assert.ok((await menu(admin)).length >= 12, 'an administrator sees everything')
    await go(admin, '/console/access', 'page-access')
    await admin.hook('matrix').waitFor()
    await admin.accessible('roles and permissions')
    await admin.hook('new-role').click()
    await admin.field('name').fill('not a name!')
    await admin.hook('submit').click()
    await admin.hook('field-error').waitFor()
    await admin.accessible('a role that is refused')
    await admin.field('name').fill('packer')
    await admin.field('label').fill('Packs <b>parcels</b>')
    await admin.hook('submit').click()
    await admin.page.locator('[data-test="role"][data-id="packer"]').waitFor()

    for (const what of ['orders.of_others', 'shipOrder']) await admin.page.locator(`[data-test="resource"][data-id="${what}"] [data-test="cell-packer"]`).check()
    assert.equal(await admin.page.locator('[data-test="resource"][data-id="shipOrder"] [data-test="cell-administrator"]').isDisabled(), true)
    assert.ok(!(await house.admin.get('/v1/resources')).items.find((r) => r.name === 'shipOrder').roles.includes('packer'), 'nothing is saved before it was looked at')
    await admin.hook('review').click()
    await until('two changes are shown', async () => (await admin.hook('changes').locator('li').count()) === 2)
    await admin.accessible('changes before they are saved')
    await admin.hook('save').click()
    await until('both stand', async () => {
      const all = (await house.admin.get('/v1/resources')).items
      return ['orders.of_others', 'shipOrder'].every((n) => all.find((r) => r.name === n).roles.includes('packer'))
    })

    await go(admin, '/console/users', 'page-users')
    await admin.hook('new-user').click()
    const dialog = admin.hook('user-dialog')
    await dialog.locator('[data-test="field-name"] input').fill('pat')
    await admin.field('password').fill('12345678')
    await dialog.locator('[data-value="packer"]').click()
    await dialog.locator('[data-test="submit"]').click()
    await dialog.locator('[data-test="field-password"] [data-test="field-error"]').waitFor() // that is easy to guess
    await admin.accessible('a new account that is refused')
    await admin.field('password').fill(password)
    await dialog.locator('[data-test="submit"]').click()
    await admin.hook('page-user').waitFor()
    await until('it has both roles', async () => /Packs <b>parcels<\/b>/.test(await admin.hook('user-roles').textContent()))
    assert.deepEqual((await house.admin.get(`/v1/users/${await idOf('pat')}`)).roles.sort(), ['customer', 'packer'])

    await go(admin, '/console/users?role=packer', 'page-users')
    await until('the list is searched by role', async () => (await admin.hook('table-users').locator('[data-test="row"]').count()) === 1)
    admin.check()
  })

  story('why: the table that judges answers', async () => {
    await go(admin, `/console/users/${await idOf('pat')}`, 'page-user')
    const why = async (resource) => {
      await admin.field('resource').selectOption(resource)
      await admin.page.locator('[data-test="page-user"] form [data-test="submit"]').first().click()
      await admin.hook('why-answer').waitFor()
      return [await admin.hook('why-answer').getAttribute('data-allowed'), await admin.hook('why-answer').textContent()]
    }
    const [yes, because] = await why('shipOrder')
    assert.equal(yes, 'true')
    assert.match(because, /Packs <b>parcels<\/b> allows it/)
    await admin.accessible('why somebody may')
    const [no, missing] = await why('refundOrder')
    assert.equal(no, 'false')
    assert.match(missing, /Order administrator/, 'it is said what would do')
    await go(admin, '/console/access', 'page-access')
    await admin.hook('why').click()
    await admin.field('who').fill('nobody-at-all')
    await admin.hook('why-dialog').locator('[data-test="submit"]').click()
    await admin.hook('why-dialog').locator('[data-test="field-error"]').waitFor()
    await admin.field('who').fill('') // a visitor
    await admin.hook('why-dialog').locator('[data-test="field-resource"] select').selectOption('listProducts')
    await admin.hook('why-dialog').locator('[data-test="submit"]').click()
    await admin.page.locator('[data-test="why-answer"][data-allowed="true"]').waitFor()
    await admin.accessible('why a visitor may')
    admin.check()
  })

  story('he who has the role sees its menus and buttons, and what is taken away is gone with the next call', async () => {
    const pat = await Person.open(house, { size: desktop })
    await pat.console('/console/', 'pat')
    await pat.hook('page-orders').waitFor() // there is no overview for him
    assert.deepEqual(await menu(pat), ['orders'])
    await until('the order is listed', () => row(pat, 'table-orders', order).count())
    assert.equal(await pat.hook('table-orders').locator('a[href*="/sales/"]').count(), 0, 'no link leads where he may not go')
    await go(pat, `/console/orders/${order}`, 'page-order')
    await pat.hook('order-ship').waitFor()
    assert.equal(await pat.hook('order-refund').count(), 0)
    assert.equal(await pat.hook('order-complete').count(), 0)
    await pat.accessible('an order, for who packs it')
    await pat.shot('console-order-packer')
    for (const path of ['/console/users', '/console/access', '/console/products/new', '/console/audit', '/console/limits']) {
      await pat.page.goto(path)
      await pat.hook('page-forbidden').waitFor()
    }
    await go(pat, `/console/orders/${order}`, 'page-order')
    await pat.hook('order-ship').click()
    await pat.field('carrier').fill('Ferry')
    await pat.field('tracking').fill('F-1')

    await house.admin.delete('/v1/resources/shipOrder/roles/packer')
    await pat.hook('submit').click()
    await pat.hook('problem-code').filter({ hasText: '403' }).waitFor()
    await until('the button is gone, without a new sign-in', async () => (await pat.hook('order-ship').count()) === 0)
    assert.equal((await house.admin.get(`/v1/orders/${order}`)).state, 'paid')
    await house.admin.call('PUT', '/v1/resources/shipOrder/roles/packer')
    await go(pat, `/console/orders/${order}`, 'page-order')
    await pat.hook('order-ship').click()
    await pat.field('carrier').fill('Ferry')
    await pat.field('tracking').fill('F-1')
    await pat.hook('submit').click()
    await until('it is on its way', async () => (await house.admin.get(`/v1/orders/${order}`)).state === 'shipped')

    // An administrator ends his sessions: the next thing that he does asks him to sign in.
    await go(admin, `/console/users/${await idOf('pat')}`, 'page-user')
    await admin.hook('table-sessions').locator('[data-test="row"]').first().waitFor()
    await admin.accessible('an account')
    await admin.hook('end-session').first().click()
    await admin.confirm()
    await until('it is listed no more', async () => (await admin.hook('table-sessions').locator('[data-test="row"]').count()) === 0)
    await pat.hook('open-nav').or(pat.hook('nav-orders')).first().click()
    await pat.hook('again').waitFor()
    await pat.accessible('the session has ended')
    await pat.close()
  })

  story('an account is shut and opened again', async () => {
    const id = await idOf('pat')
    const pat = await house.signIn('pat')
    await go(admin, `/console/users/${id}`, 'page-user')
    await admin.hook('disable').click()
    await admin.confirm({ reason: 'lost the key' })
    await admin.page.locator('[data-test="user-state"][data-state="disabled"]').waitFor()
    assert.match(await admin.hook('user-state').textContent(), /lost the key/)
    await assert.rejects(pat.get('/v1/me'), { status: 401 })
    await assert.rejects(house.signIn('pat'))
    await admin.hook('enable').click()
    await admin.confirm()
    await admin.page.locator('[data-test="user-state"][data-state="enabled"]').waitFor()
    await Promise.all([house.signIn('pat'), house.signIn('pat')])
    await admin.page.reload()
    await until('both sessions are listed', async () => (await admin.hook('table-sessions').locator('[data-test="row"]').count()) === 2)
    await admin.hook('end-all-sessions').click()
    await admin.confirm()
    await until('none is left', async () => (await house.admin.get(`/v1/users/${id}/sessions`)).items.length === 0)
    // Nobody shuts himself out.
    await go(admin, `/console/users/${house.admin.id}`, 'page-user')
    await admin.hook('edit-roles').waitFor()
    assert.equal(await admin.hook('disable').count(), 0)
    admin.check()
  })

  story('a password link is good once', async () => {
    await go(admin, `/console/users/${await idOf('pat')}`, 'page-user')
    await admin.hook('password-reset').click()
    await admin.confirm()
    const link = (await admin.hook('secret').textContent()).trim()
    assert.ok(link.startsWith(`${house.base}/reset#`), link.slice(0, 40))
    await admin.accessible('a password link')
    await admin.hook('secret-done').click()
    const pat = await Person.open(house, { size: phone })
    await pat.page.goto(link)
    await pat.ready('reset')
    await until('the token has left the address', async () => !pat.page.url().includes('#'))
    await pat.accessible('a new password by a link')
    await pat.hook('password').fill('short')
    await pat.hook('reset').click()
    await pat.page.locator('[aria-invalid="true"]').first().waitFor()
    const fresh = 'three-geese-before-the-flood'
    await pat.hook('password').fill(fresh)
    await pat.hook('reset').click()
    await pat.ready('sign-in')
    await pat.hook('name').fill('pat')
    await pat.hook('password').fill(fresh)
    await pat.hook('sign-in').click()
    await pat.hook('account-link').waitFor()
    await pat.page.goto('about:blank')
    await pat.page.goto(link)
    await pat.ready('reset')
    await pat.hook('password').fill('four-geese-after-the-flood')
    await pat.hook('reset').click()
    await pat.page.locator('[data-test="form-error"][data-code="gone"]').waitFor()
    await assert.rejects(house.signIn('pat'), { status: 401 }) // the old password
    await pat.close()
  })

  story('a personal access token is shown once, reaches what it is for, and is revoked', async () => {
    await go(admin, '/console/me', 'page-me')
    await admin.hook('table-sessions').locator('[data-test="row"]').first().waitFor()
    await admin.hook('new-token').click()
    await admin.page.locator('[data-test="field-scopes"] [data-value="orders:read"]').waitFor()
    await admin.hook('token-dialog').locator('[data-test="submit"]').click()
    await until('what is missing is told', async () => (await admin.hook('token-dialog').locator('[data-test="field-error"]').count()) === 2)
    await admin.field('name').fill('Nightly <report>')
    await admin.hook('field-scopes').locator('[data-value="orders:read"]').click()
    await admin.field('single').fill('changePassword')
    await admin.hook('token-dialog').locator('[data-test="submit"]').click()
    await admin.hook('field-scopes').locator('[data-test="field-error"]').waitFor() // that takes a sign-in in person
    await admin.accessible('a token that is refused')
    await admin.field('single').fill('getMe')
    await admin.hook('token-dialog').locator('[data-test="submit"]').click()
    const text = (await admin.hook('secret').textContent()).trim()
    assert.match(text, /^lvp_/)
    await admin.accessible('a token, once')
    await admin.hook('secret-done').click()
    await until('it is listed', async () => /Nightly <report>/.test(await admin.hook('table-tokens').textContent()))
    assert.equal((await admin.page.content()).includes(text), false, 'the page forgets it')
    const program = new Api(house.base, text)
    assert.equal((await program.get('/v1/me')).id, house.admin.id)
    assert.ok((await program.get('/v1/orders')).items.length > 0)
    await assert.rejects(program.get('/v1/users'), { status: 403 })
    await admin.hook('revoke-token').click()
    await admin.confirm()
    await admin.hook('table-tokens').locator('[data-test="empty"]').waitFor()
    await assert.rejects(program.get('/v1/me'), { status: 401 })
    await admin.accessible('one’s own account')
    admin.check()
  })

  story('one’s own password and sessions', async () => {
    await house.admin.post('/v1/users', { name: 'sam', password, roles: ['customer', 'operator'] })
    const sam = await Person.open(house, { size: desktop })
    await sam.console('/console/', 'sam')
    const other = await house.signIn('sam')
    await go(sam, '/console/me', 'page-me')
    await until('both are listed', async () => (await sam.hook('table-sessions').locator('[data-test="row"]').count()) === 2)
    await sam.hook('end-other-sessions').click()
    await sam.confirm()
    await until('one is left', async () => (await sam.hook('table-sessions').locator('[data-test="row"]').count()) === 1)
    await assert.rejects(other.get('/v1/me'), { status: 401 })
    await sam.field('current').fill(password)
    await sam.field('password').fill('another-quiet-levee-at-dawn-7')
    await sam.hook('submit').first().click()
    await until('the form is empty', async () => (await sam.field('password').inputValue()) === '')
    await assert.rejects(house.signIn('sam'), { status: 401 })
    await sam.close()
  })

  story('a limit is changed, acts at once, and is not written over unseen', async () => {
    await go(admin, '/console/limits', 'page-limits')
    const line = row(admin, 'table-limits', 'challenge')
    await line.waitFor()
    await admin.accessible('the limits')
    const edit = async (rate) => {
      await line.locator('[data-test="edit-limit"]').click()
      await until('it was read', async () => !(await admin.hook('submit').isDisabled()))
      await admin.field('rate').fill(rate)
    }
    await edit('often')
    await admin.hook('submit').click()
    await admin.hook('field-error').waitFor()
    await admin.accessible('a rate that is refused')
    await admin.field('rate').fill('7/min')
    await house.admin.call('PUT', '/v1/limits/challenge', { rate: '9/min' }, { 'If-Match': '*' })
    await admin.hook('submit').click()
    await admin.hook('problem-code').filter({ hasText: '412' }).waitFor()
    assert.match((await house.admin.get('/v1/limits/challenge')).rate, /^9\//)
    await admin.hook('submit').click() // now that it was seen
    await until('it counts', async () => /^7\//.test((await house.admin.get('/v1/limits/challenge')).rate))
    await until('and is shown', async () => /^7\//.test(await line.locator('[data-test="rate"]').textContent()))
    await line.locator('[data-test="reset-limit"]').click()
    await admin.confirm()
    await until('as configured', async () => (await house.admin.get('/v1/limits/challenge')).changed_at === undefined)
    admin.check()
  })

  story('the next signing key', async () => {
    await go(admin, '/console/keys', 'page-keys')
    await admin.hook('key-state').first().waitFor()
    const before = (await house.admin.get('/v1/signing-keys')).items.length
    await admin.hook('roll').click()
    await admin.accessible('the next signing key')
    await admin.hook('submit').click()
    await until('it is listed', async () => (await admin.hook('key-state').count()) === before + 1)
    assert.equal(await admin.hook('key-state').first().getAttribute('data-state'), 'published')
    const jwks = await (await fetch(`${house.base}/.well-known/jwks.json`)).json()
    assert.equal(jwks.keys.length, before + 1, 'others can know it by now')
    await admin.accessible('the signing keys')
    admin.check()
  })

  story('a policy of Casbin is tried, looked at, taken over', async () => {
    await go(admin, '/console/access', 'page-access')
    await admin.hook('policy-import').click()
    await admin.hook('page-policy').waitFor()
    const policy = admin.field('policy')
    await policy.fill('p, reader, /v1/orders, GET\np, reader, /v1/nothing-here, GET\n')
    await admin.hook('policy-try').click()
    await admin.hook('table-policy-faults').waitFor()
    assert.match(await admin.hook('table-policy-faults').textContent(), /2/)
    assert.equal(await admin.hook('policy-apply').count(), 0)
    await admin.accessible('a policy with a fault')
    await admin.hook('policy-file').locator('xpath=descendant-or-self::input').first().setInputFiles({ name: 'policy.csv', mimeType: 'text/csv', buffer: Buffer.from('p, reader, /v1/audit, GET\ng, pat, reader\n') })
    await until('the file is in the form', async () => /audit/.test(await policy.inputValue()))
    await admin.hook('policy-try').click()
    await admin.hook('table-policy-grants').waitFor()
    assert.match(await admin.hook('policy-roles').textContent(), /reader/)
    assert.match(await admin.hook('table-policy-given').textContent(), /pat/)
    assert.equal((await house.admin.get('/v1/roles')).items.some((r) => r.name === 'reader'), false, 'that was only a look')
    await admin.accessible('what a policy would do')
    await admin.hook('policy-apply').click()
    await admin.page.locator('[data-test="policy-plan"][data-done="true"]').waitFor()
    assert.ok((await house.admin.get(`/v1/users/${await idOf('pat')}`)).roles.includes('reader'))
    admin.check()
  })

  story('a role goes when nobody has it, and the trail tells of it all', async () => {
    await go(admin, '/console/access', 'page-access')
    const role = admin.page.locator('[data-test="role"][data-id="packer"]')
    await role.locator('[data-test="remove-role"]').click()
    await admin.hook('confirm-yes').click()
    await admin.hook('confirm').locator('[data-test="problem"]').waitFor() // pat has it
    await admin.hook('confirm-no').click()
    await go(admin, `/console/users/${await idOf('pat')}`, 'page-user')
    await admin.hook('edit-roles').click()
    await admin.hook('field-roles').locator('[data-value="packer"]').click()
    await admin.hook('roles-of').locator('[data-test="submit"]').click()
    await until('he has it no more', async () => !(await house.admin.get(`/v1/users/${await idOf('pat')}`)).roles.includes('packer'))
    await go(admin, '/console/access', 'page-access')
    await role.locator('[data-test="remove-role"]').click()
    await admin.confirm()
    await role.waitFor({ state: 'detached' })

    const wanted = ['access.role_created', 'access.granted', 'access.role_removed', 'user.created', 'user.disabled', 'user.enabled', 'user.sessions_ended', 'user.roles_changed',
      'user.reset_created', 'user.password_reset', 'user.password_changed', 'session.others_revoked', 'token.created', 'token.revoked', 'limit.set', 'limit.reset', 'key.rolled']
    for (const action of wanted) {
      const { items } = await house.admin.get(`/v1/audit?action=${action}&limit=1`)
      assert.ok(items.length === 1 && items[0].actor && items[0].address, `${action} is not in the trail: ${JSON.stringify(items)}`)
    }
    const { items: ended } = await house.admin.get('/v1/audit?action=session.ended&limit=100')
    assert.ok(ended.some((e) => e.actor === house.admin.id && e.subject.startsWith('ses_')), 'whose session an administrator ended is not in the trail')
    await go(admin, '/console/audit?action=access.role_removed', 'page-audit')
    const line = admin.hook('table-audit').locator('[data-test="row"]')
    await until('its row is shown', async () => (await line.count()) === 1)
    await line.locator('summary').click()
    assert.match(await line.textContent(), /packer/)
    await admin.accessible('the trail of a role')
    admin.check()
  })
})
