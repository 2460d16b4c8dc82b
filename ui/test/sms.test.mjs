// Signing in by a code that comes by SMS. The house is in development: its messages stand in its log.
import { after, before, describe } from 'node:test'
import assert from 'node:assert/strict'
import { House, until } from './house.mjs'
import { Person, desktop, phone, story } from './people.mjs'

/** The last code that went to a number, once there are n of them. */
const message = async (house, number, n = 1) => {
  let codes = []
  await until('the message', () => {
    codes = [...house.said.matchAll(new RegExp(`SMS of development to \\*\\*\\*${number.slice(-4)}: the code is (\\d{6})`, 'g'))].map((m) => m[1])
    return codes.length >= n
  })
  return codes.at(-1)
}

describe('signing in by SMS', () => {
  let house
  before(async () => {
    house = await House.start({ phone: { sender: 'console' }, limits: { rates: { sms: '1/h' } } })
  })
  after(() => house?.close())

  for (const [size, language, number] of [[phone, 'en', '13800138000'], [desktop, 'zh', '13800138001']])
    story(`a first visit, ${language}`, async () => {
      const p = await Person.open(house, { size, language })
      await p.goto('/sign-in?next=/orders')
      await p.hook('by-sms').click()
      await p.accessible('asking for a code')
      await p.hook('phone').fill('12')
      await p.hook('ask').click()
      await until('the number is refused', async () => (await p.hook('phone').getAttribute('aria-invalid')) === 'true')
      await p.hook('phone').fill(number)
      await p.hook('ask').click()
      await p.hook('code').waitFor()
      await until('the code has the focus', () => p.hook('code').evaluate((e) => e === document.activeElement))
      assert.equal(await p.hook('again').isDisabled(), true, 'another one has to be waited for')
      assert.match(await p.hook('again').innerText(), language === 'zh' ? /^\d+ 秒后/ : /^Another code in \d+ second/)
      await p.accessible('entering a code')
      const code = await message(house, number)
      await p.hook('code').fill(code === '000000' ? '000001' : '000000')
      await p.hook('enter').click()
      await p.page.locator('[data-test="code"][aria-invalid="true"]').waitFor()
      await p.hook('code').fill(code)
      await p.hook('enter').click()
      await p.page.waitForURL((u) => u.pathname === '/orders')
      await p.ready('orders')
      await p.close()
    })

  story('too often, and back to the password', async () => {
    const p = await Person.open(house, { allow: /429/ })
    await p.goto('/sign-in')
    await p.hook('by-sms').click()
    await p.hook('phone').fill('13800138000') // it had its message
    await p.hook('ask').click()
    await p.hook('form-error').waitFor()
    await p.hook('by-password').click()
    await p.hook('password').waitFor()
    await p.close()
  })

  story('a house that sends none offers none', async () => {
    const other = await House.start()
    try {
      const p = await Person.open(other)
      const asked = p.page.waitForResponse((r) => r.url().endsWith('/v1/phone-codes'))
      await p.goto('/sign-in')
      assert.equal((await (await asked).json()).enabled, false)
      await p.hook('password').waitFor()
      assert.equal(await p.hook('by-sms').count(), 0)
      await p.close()
    } finally {
      await other.close()
    }
  })
})

describe('a number on an account', () => {
  let house
  before(async () => {
    house = await House.start({ phone: { sender: 'console' }, limits: { rates: { sms: '100/h' } } })
  })
  after(() => house?.close())

  story('a number for an account that has none', async () => {
    await house.customer('first')
    const p = await Person.open(house)
    await p.signIn('first', '/account')
    await p.hook('phone-section').waitFor()
    await p.hook('phone-bind').click()
    await p.accessible('putting a number on an account')
    await p.hook('phone').fill('13800138002')
    await p.hook('ask').click()
    await p.hook('code').waitFor()
    const code = await message(house, '13800138002')
    await p.hook('code').fill(code === '000000' ? '000001' : '000000')
    await p.hook('enter').click()
    await p.page.locator('[data-test="code"][aria-invalid="true"]').waitFor()
    await p.hook('code').fill(code)
    await p.hook('enter').click()
    await until('the number stands there', async () => (await p.hook('phone-number').innerText()) === '+8613800138002')
    assert.equal(await p.hook('code').count(), 0, 'the form is gone')
    await p.goto('/account')
    await until('and is kept', async () => (await p.hook('phone-number').innerText()) === '+8613800138002')
    await p.close()
  })

  story('a number that another account has proven', async () => {
    await house.customer('second')
    const p = await Person.open(house, { allow: /409/ })
    await p.signIn('second', '/account')
    await p.hook('phone-bind').click()
    await p.hook('phone').fill('13800138002')
    await p.hook('ask').click()
    await p.hook('code').waitFor()
    await p.hook('code').fill(await message(house, '13800138002', 2))
    await p.hook('enter').click()
    await p.hook('form-error').waitFor()
    await p.hook('phone-leave').click()
    assert.match(await p.hook('phone-number').innerText(), /^None yet/)
    await p.close()
  })
})
