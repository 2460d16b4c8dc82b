// Second factors in both faces: codes of an application, recovery codes, passkeys (Chromium's own authenticator for tests), and the proof that dangerous
// acts ask for.
import { after, before, describe } from 'node:test'
import assert from 'node:assert/strict'
import { Application, enrol, lines } from './application.mjs'
import { House, password, sleep, until } from './house.mjs'
import { Person, desktop, phone, story } from './people.mjs'

/** Gives a page's browser an authenticator that knows its owner. */
async function authenticator(p) {
  const cdp = await p.context.newCDPSession(p.page)
  await cdp.send('WebAuthn.enable')
  const { authenticatorId: id } = await cdp.send('WebAuthn.addVirtualAuthenticator', {
    options: { protocol: 'ctap2', transport: 'internal', hasResidentKey: true, hasUserVerification: true, isUserVerified: true, automaticPresenceSimulation: true },
  })
  return {
    count: async () => (await cdp.send('WebAuthn.getCredentials', { authenticatorId: id })).credentials.length,
    /** Whether its owner says yes from now on. */
    agree: (yes) => cdp.send('WebAuthn.setUserVerified', { authenticatorId: id, isUserVerified: yes }),
  }
}

/** The first step of a sign-in, in the shop. */
async function begin(p, name) {
  await p.goto('/sign-in?next=/account')
  await p.hook('name').fill(name)
  await p.hook('password').fill(password)
  await p.hook('sign-in').click()
}

async function leave(p) {
  await p.hook('sign-out').click()
  await p.hook('sign-in-link').waitFor()
}

describe('second factors in the shop', () => {
  let house
  before(async () => {
    house = await House.start({ phone: { sender: 'console' }, limits: { rates: { sms: '100/h', sms_day: '100/day', sms_address: '100/h' } } }, 'localhost')
  })
  after(() => house?.close())

  for (const [size, language, name] of [[phone, 'en', 'reed'], [desktop, 'zh', 'sedge']])
    story(`an application for codes, and recovery codes, ${language}`, async () => {
      await house.customer(name)
      const p = await Person.open(house, { size, language })
      await begin(p, name)
      await p.ready('account')
      await p.hook('factor-totp').waitFor()
      assert.equal(await p.hook('factor-recovery').count(), 0, 'codes come with a factor')
      await p.hook('totp-add').click()
      const app = new Application(await p.hook('totp-secret').innerText())
      assert.match(await p.hook('totp-link').getAttribute('href'), /^otpauth:\/\/totp\//)
      await p.hook('totp-qr').waitFor()
      await p.page.evaluate(() => scrollTo(0, 0)) // what lies half under the bar at this moment is not too small
      await p.accessible('an application is set up')
      await p.hook('totp-confirm').click()
      await p.page.locator('[data-test="totp-code"][aria-invalid="true"]').waitFor()
      await p.hook('totp-code').fill(app.wrong())
      const refused = p.page.waitForResponse((r) => r.url().endsWith('/v1/me/totp/confirmation'))
      await p.hook('totp-confirm').click()
      assert.equal((await refused).status(), 422)
      await p.page.locator('[data-test="totp-code"][aria-invalid="true"]').waitFor()
      await p.hook('totp-code').fill(await app.code())
      await p.hook('totp-confirm').click()
      const codes = await lines(p.hook('codes'))
      assert.equal(new Set(codes).size, 10)
      await p.accessible('recovery codes')
      await p.shot(`shop-recovery-codes-${language}`, { fullPage: true })
      await p.hook('codes-kept').click()
      await p.page.locator('[data-test="factor-recovery"][data-left="10"]').waitFor()
      assert.equal((await p.page.content()).includes(codes[0]), false, 'the page forgets them')

      await leave(p)
      await begin(p, name)
      await p.page.locator('[data-test="second-step"][data-way="totp"]').waitFor()
      assert.equal(await p.hook('account-link').count(), 0, 'nobody is signed in yet')
      await p.accessible('the second step')
      await p.shot(`shop-second-step-${language}`)
      await p.hook('second-code').fill(app.wrong())
      await p.hook('second-send').click()
      await p.page.locator('[data-test="second-code"][aria-invalid="true"]').waitFor()
      await p.hook('second-code').fill(app.at(app.last)) // it was used
      const again = p.page.waitForResponse((r) => r.url().endsWith('/v1/sessions/second-factor'))
      await p.hook('second-send').click()
      assert.equal((await again).status(), 401)
      await p.page.locator('[data-test="second-code"][aria-invalid="true"]').waitFor()
      await p.hook('second-code').fill(await app.code())
      await p.hook('second-send').click()
      await p.ready('account')

      await leave(p)
      await begin(p, name)
      await p.hook('by-recovery_code').click()
      await p.accessible('a recovery code is asked for')
      await p.hook('recovery-code').fill(codes[0].toLowerCase())
      await p.hook('second-send').click()
      await p.page.locator('[data-test="factor-recovery"][data-left="9"]').waitFor()
      await leave(p)
      await begin(p, name)
      await p.hook('by-recovery_code').click()
      await p.hook('recovery-code').fill(codes[0])
      await p.hook('second-send').click()
      await p.page.locator('[data-test="recovery-code"][aria-invalid="true"]').waitFor()
      await p.hook('recovery-code').fill(codes[1])
      await p.hook('second-send').click()
      await p.page.locator('[data-test="factor-recovery"][data-left="8"]').waitFor()

      await p.hook('recovery-renew').click()
      await p.hook('factor-yes').click()
      const renewed = await lines(p.hook('codes'))
      assert.equal(renewed.filter((c) => codes.includes(c)).length, 0)
      await p.hook('codes-kept').click()
      await p.page.locator('[data-test="factor-recovery"][data-left="10"]').waitFor()
      await p.hook('totp-remove').click()
      await p.accessible('before the application is removed')
      await p.hook('factor-no').click()
      await p.hook('totp-remove').click()
      await p.hook('factor-yes').click()
      await p.page.locator('[data-test="factor-totp"][data-there="false"]').waitFor()
      await p.hook('factor-recovery').waitFor({ state: 'detached' })
      await leave(p)
      await begin(p, name)
      await p.ready('account') // one step again
      await p.close()
    })

  story('a passkey', async () => {
    await house.customer('heron')
    const p = await Person.open(house, { size: phone })
    const device = await authenticator(p)
    await begin(p, 'heron')
    await p.ready('account')
    await p.hook('passkey-add').click()
    await p.hook('passkey-send').click()
    await p.page.locator('[data-test="passkey-name"][aria-invalid="true"]').waitFor()
    await p.hook('passkey-name').fill('My <phone>')
    await device.agree(false)
    await p.hook('passkey-send').click()
    await p.hook('toast').filter({ hasText: 'No passkey was used' }).waitFor()
    assert.equal(await p.hook('passkey-name').inputValue(), 'My <phone>', 'what was typed stays')
    await device.agree(true)
    await p.hook('passkey-send').click()
    assert.equal((await lines(p.hook('codes'))).length, 10)
    assert.equal(await device.count(), 1)
    await p.hook('codes-kept').click()
    await p.hook('passkey').waitFor()
    assert.match(await p.hook('passkey').innerText(), /My <phone>/)
    await p.accessible('passkeys')

    await p.hook('passkey-add').click() // the device has one already
    await p.hook('passkey-name').fill('Again')
    await p.hook('passkey-send').click()
    await p.hook('toast').filter({ hasText: 'already' }).waitFor()
    assert.equal(await p.hook('passkey').count(), 1)

    await leave(p)
    await begin(p, 'heron')
    await p.page.locator('[data-test="second-step"][data-way="passkey"]').waitFor()
    await p.accessible('a passkey is asked for')
    await device.agree(false)
    await p.hook('second-send').click()
    await p.page.getByText('No passkey was used').first().waitFor()
    assert.equal(await p.hook('account-link').count(), 0, 'nobody is signed in')
    await device.agree(true)
    await p.hook('second-send').click()
    await p.ready('account')
    await p.hook('passkey').waitFor()
    await p.hook('passkey-remove').click()
    await p.hook('factor-yes').click()
    await p.hook('passkey').waitFor({ state: 'detached' })
    await p.close()
  })

  story('after a code by SMS, too', async () => {
    const p = await Person.open(house)
    let n = 0
    const bySMS = async () => {
      await p.goto('/sign-in?next=/account')
      await p.hook('by-sms').click()
      await p.hook('phone').fill('13800138007')
      await p.hook('ask').click()
      n++
      const codes = () => [...house.said.matchAll(/SMS of development to \*\*\*8007: the code is (\d{6})/g)].map((m) => m[1])
      await until('the message', () => codes().length >= n)
      await p.hook('code').fill(codes().at(-1))
      await p.hook('enter').click()
    }
    await bySMS()
    await p.ready('account')
    const { app } = await enrol(p)
    await leave(p)
    await bySMS()
    await p.hook('second-step').waitFor()
    await p.hook('anew').click()
    await p.hook('phone').waitFor() // it begins anew, where it began
    await bySMS()
    await p.hook('second-code').fill(await app.code())
    await p.hook('second-send').click()
    await p.ready('account')
    await p.close()
  })
})

describe('where a second factor is a must', () => {
  let house
  before(async () => {
    house = await House.start()
    house.env.LEVEE_FACTOR__REQUIRE = 'staff' // those who signed in before stay
    await house.stop()
    await house.run()
  })
  after(() => house?.close())

  story('an operator sets one up as he signs in', async () => {
    const p = await Person.open(house, { size: desktop, language: 'zh' })
    await p.page.goto('/console/sign-in')
    await p.field('name').fill('operator')
    await p.field('password').fill(password)
    await p.hook('submit').click()
    await p.page.locator('[data-test="second-step"][data-way="enrol"]').waitFor()
    const app = new Application(await p.hook('totp-secret').innerText())
    await p.accessible('a factor is demanded')
    await p.shot('console-factor-demanded')
    await p.field('code').fill(app.wrong())
    await p.hook('submit').click()
    await p.hook('field-error').waitFor()
    assert.equal(await p.hook('app').count(), 0)
    await p.field('code').fill(await app.code())
    await p.hook('submit').click()
    assert.equal((await lines(p.hook('secret'))).length, 10)
    await p.accessible('recovery codes at a sign-in')
    await p.hook('secret-done').click()
    await p.hook('page-overview').waitFor()

    await p.page.goto('/console/me')
    await p.hook('factor-required').waitFor()
    await p.hook('passkeys-unusable').waitFor() // an address is no name
    await p.hook('totp-remove').click()
    await p.hook('confirm-yes').click()
    await p.hook('confirm').locator('[data-test="problem-code"]').filter({ hasText: '409' }).waitFor() // it is the last
    await p.accessible('the last factor stays')
    await p.hook('confirm-no').click()
    await p.close()
  })

  story('a customer need not', async () => {
    await house.customer('minnow')
    const p = await Person.open(house)
    await p.signIn('minnow', '/account')
    await p.hook('factor-totp').waitFor()
    assert.equal(await p.hook('factor-required').count(), 0)
    await p.close()
  })
})

describe('fresh proofs, and factors in the console', () => {
  let house, boss, keeper, shopper, device, keepers, shoppers, lost
  before(async () => {
    // The shortest that the house allows: the stories that need an old session come last.
    house = await House.start({ factor: { fresh_for: '1m' } }, 'localhost')
    await house.admin.post('/v1/users', { name: 'keeper', password, roles: ['customer', 'administrator'] })
    await house.customer('shopper')
    lost = await house.customer('loser')
    const { secret, challenge } = await lost.post('/v1/me/totp')
    await lost.post('/v1/me/totp/confirmation', { challenge, code: await new Application(secret).code() })
    boss = await Person.open(house, { size: desktop })
    await boss.console('/console/', 'administrator')
    keeper = await Person.open(house, { size: desktop })
    device = await authenticator(keeper)
    shopper = await Person.open(house, { size: phone })
  })
  after(async () => {
    for (const p of [boss, keeper, shopper]) await p?.leave()
    await house?.close()
  })

  const go = async (p, path, page) => {
    await p.page.goto(path)
    await p.hook(page).waitFor()
  }
  const within = (p, part, name) => p.hook(part).locator(`[data-test="${name}"]`)
  const out = async (p) => {
    await p.hook('sign-out').click()
    await p.hook('page-sign-in').waitFor()
  }
  const first = async (p, name) => {
    await p.page.goto('/console/sign-in')
    await p.field('name').fill(name)
    await p.field('password').fill(password)
    await p.hook('submit').click()
  }
  /** Waits until a session's proof is too old: asked of the house itself, once a second. */
  const old = (p) =>
    until('the proof is too old', async () => {
      const status = await p.page.evaluate(() => fetch('/v1/me/passkeys/options', { method: 'POST' }).then((r) => r.status))
      if (status !== 401) await sleep(1000)
      return status === 401
    }, 120_000)

  story('an application and a passkey are set up, and each signs in', async () => {
    await shopper.signIn('shopper', '/account')
    await shopper.hook('factor-totp').waitFor()
    shoppers = await enrol(shopper)

    await keeper.console('/console/', 'keeper')
    await go(keeper, '/console/me', 'page-me')
    await keeper.hook('totp-add').click()
    keepers = new Application(await keeper.hook('totp-secret').innerText())
    await keeper.accessible('an application is set up, in the console')
    await within(keeper, 'totp-dialog', 'submit').click()
    await within(keeper, 'totp-dialog', 'field-error').waitFor()
    await keeper.field('code').fill(keepers.wrong())
    const refused = keeper.page.waitForResponse((r) => r.url().endsWith('/v1/me/totp/confirmation'))
    await within(keeper, 'totp-dialog', 'submit').click()
    assert.equal((await refused).status(), 422)
    await within(keeper, 'totp-dialog', 'field-error').waitFor()
    await keeper.field('code').fill(await keepers.code())
    await within(keeper, 'totp-dialog', 'submit').click()
    const codes = await lines(keeper.hook('secret'))
    assert.equal(new Set(codes).size, 10)
    await keeper.hook('secret-done').click()
    await keeper.page.locator('[data-test="factor-totp"][data-there="true"]').waitFor()

    await keeper.hook('passkey-add').click()
    await keeper.hook('passkey-dialog').locator('input').fill('Laptop <1>')
    await within(keeper, 'passkey-dialog', 'submit').click()
    await until('it is listed', async () => /Laptop <1>/.test(await keeper.hook('table-passkeys').textContent()))
    assert.equal(await device.count(), 1)
    assert.equal(await keeper.hook('secret').count(), 0, 'there are recovery codes already')
    await keeper.accessible('one’s own factors')
    await keeper.shot('console-factors', { fullPage: true })

    await out(keeper)
    await first(keeper, 'keeper')
    await keeper.page.locator('[data-test="second-step"][data-way="passkey"]').waitFor()
    await keeper.accessible('a passkey is asked for, in the console')
    await within(keeper, 'second-step', 'submit').click()
    await keeper.hook('page-overview').waitFor()

    await out(keeper)
    await first(keeper, 'keeper')
    await keeper.hook('by-recovery_code').click()
    await keeper.field('code').fill(codes[3])
    await within(keeper, 'second-step', 'submit').click()
    await keeper.hook('page-overview').waitFor()
    await out(keeper)
    await first(keeper, 'keeper')
    await keeper.hook('by-recovery_code').click()
    await keeper.field('code').fill(codes[3])
    await within(keeper, 'second-step', 'submit').click()
    await within(keeper, 'second-step', 'field-error').waitFor() // it was used
    await keeper.hook('by-totp').click()
    await keeper.field('code').fill(await keepers.code())
    await within(keeper, 'second-step', 'submit').click()
    await keeper.hook('page-overview').waitFor()
    await go(keeper, '/console/me', 'page-me')
    await keeper.page.locator('[data-test="factor-recovery"][data-left="9"]').waitFor()
    keeper.check()
    shopper.check()
  })

  story('a dangerous act asks for the password; who cancels finds his form as it was', async () => {
    await old(boss)
    await go(boss, '/console/users', 'page-users')
    await boss.hook('new-user').click()
    await within(boss, 'user-dialog', 'field-name').locator('input').fill('tern')
    await within(boss, 'user-dialog', 'field-password').locator('input').fill(password)
    await within(boss, 'user-dialog', 'submit').click()
    await boss.hook('step-up').waitFor()
    await boss.accessible('a proof is asked for')
    await boss.shot('console-step-up')
    await boss.hook('step-up-no').click()
    await boss.hook('step-up').waitFor({ state: 'hidden' })
    await within(boss, 'user-dialog', 'problem-code').filter({ hasText: 'step_up_required' }).waitFor()
    assert.equal(await within(boss, 'user-dialog', 'field-name').locator('input').inputValue(), 'tern')
    assert.equal(await within(boss, 'user-dialog', 'field-password').locator('input').inputValue(), password)
    assert.equal((await house.admin.get('/v1/users?name=tern')).items.length, 0)

    await within(boss, 'user-dialog', 'submit').click()
    const proof = within(boss, 'step-up', 'field-password').locator('input')
    await proof.fill('not-the-password-8')
    await within(boss, 'step-up', 'submit').click()
    await within(boss, 'step-up', 'field-error').waitFor()
    await boss.accessible('a proof is refused')
    await proof.fill(password)
    await within(boss, 'step-up', 'submit').click()
    await boss.hook('page-user').waitFor() // it was made, and its page opened
    assert.equal((await house.admin.get('/v1/users?name=tern')).items.length, 1)
    await boss.hook('password-reset').click()
    await boss.hook('confirm-yes').click()
    await boss.hook('secret').waitFor() // the proof is fresh: nothing is asked
    await boss.hook('secret-done').click()
    boss.check()
  })

  story('a passkey proves it, too: an administrator resets what somebody lost', async () => {
    await old(keeper)
    await go(keeper, `/console/users/${lost.id}`, 'page-user')
    await keeper.hook('reset-factors').click()
    await keeper.hook('confirm').waitFor()
    await keeper.accessible('before factors are reset')
    await keeper.hook('confirm-yes').click()
    await within(keeper, 'step-up', 'submit').waitFor()
    await keeper.page.keyboard.press('Escape') // as Cancel
    await within(keeper, 'confirm', 'problem-code').filter({ hasText: 'step_up_required' }).waitFor()
    await assert.rejects(house.signIn('loser'), (e) => e.code === 'second_factor_required')
    await keeper.hook('confirm-yes').click()
    await within(keeper, 'step-up', 'submit').click()
    await keeper.hook('confirm').waitFor({ state: 'hidden' })
    await assert.rejects(lost.get('/v1/me'), { status: 401 }) // his sessions ended
    await (await house.signIn('loser')).get('/v1/me') // and one step is enough again
    keeper.check()
  })

  story('the shop asks, too', async () => {
    await old(shopper)
    await shopper.hook('totp-remove').click()
    await shopper.hook('factor-yes').click()
    await shopper.hook('proof-code').waitFor()
    await shopper.accessible('a proof is asked for, in the shop')
    await shopper.hook('proof-no').click()
    await shopper.hook('toast').filter({ hasText: 'Nothing was done' }).waitFor()
    await shopper.page.locator('[data-test="factor-totp"][data-there="true"]').waitFor()
    await shopper.hook('totp-remove').click()
    await shopper.hook('factor-yes').click()
    await shopper.hook('proof-code').fill(shoppers.app.wrong())
    await shopper.hook('proof-yes').click()
    await shopper.page.locator('[data-test="proof-code"][aria-invalid="true"]').waitFor()
    await shopper.hook('proof-code').fill(await shoppers.app.code())
    await shopper.hook('proof-yes').click()
    await shopper.page.locator('[data-test="factor-totp"][data-there="false"]').waitFor()
    assert.ok((await shopper.hook('account-link').count()) > 0, 'he is signed in all the while')
    shopper.check()
  })

  story('a session that ended goes on by both steps', async () => {
    const { items } = await house.admin.get('/v1/users?name=keeper')
    await go(keeper, '/console/products', 'page-products') // which anybody may read; orders nobody who is not signed in
    await house.admin.delete(`/v1/users/${items[0].id}/sessions`)
    await keeper.hook('nav-orders').click()
    await within(keeper, 'again', 'field-password').locator('input').fill(password)
    await within(keeper, 'again', 'submit').click()
    await within(keeper, 'again', 'second-step').waitFor()
    await keeper.accessible('the second step over a page')
    await within(keeper, 'again', 'submit').click() // by passkey
    await keeper.hook('again').waitFor({ state: 'hidden' })
    await keeper.hook('page-orders').waitFor()
    keeper.check()
  })

  story('the trail tells of it all', async () => {
    await go(boss, '/console/audit?action=factor.reset', 'page-audit')
    await until('the reset is shown', async () => (await boss.hook('table-audit').locator('[data-test="row"]').count()) === 1)
    for (const action of ['factor.totp_added', 'factor.passkey_added', 'factor.recovery_used', 'session.second_asked', 'session.stepped_up', 'session.step_up_refused', 'factor.totp_removed'])
      assert.ok((await house.admin.get(`/v1/audit?action=${action}&limit=1`)).items.length === 1, `${action} is not in the trail`)
    boss.check()
  })
})
