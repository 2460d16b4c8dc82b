// The watch that all other tests rely on: each thing that must not happen in a page is made to happen, and must be told.
import { after, before, describe } from 'node:test'
import assert from 'node:assert/strict'
import { House, until } from './house.mjs'
import { Person, story } from './people.mjs'

describe('the watch over pages', () => {
  let house, p
  before(async () => {
    house = await House.start()
    p = await Person.open(house)
  })
  after(async () => {
    await p?.leave()
    await house?.close()
  })

  const wrongs = {
    'an error': [() => void setTimeout(() => { throw new Error('planted') }), /error: .*planted/],
    'a promise that nobody catches': [() => void Promise.reject(new Error('planted')), /planted/],
    'a console error': [() => console.error('planted'), /console error: planted/],
    'a console warning': [() => console.warn('planted'), /console warning: planted/],
    'a dialog': [() => void setTimeout(() => alert('planted')), /dialog: alert planted/],
    'a canary': [() => window.canary('planted'), /a script ran \(planted\)/],
    'an inline style': [() => void document.body.setAttribute('style', 'color:red'), /policy: style-src/],
    'an inline script': [() => { try { const s = document.createElement('script'); s.append('window.planted = 1'); document.body.append(s) } catch { /* it throws, and is told all the same */ } }, /policy: (script-src|require-trusted-types-for)/],
    'markup from a string': [() => { try { document.body.insertAdjacentHTML('beforeend', '<img src=x onerror="canary(1)">') } catch { /* likewise */ } }, /policy: require-trusted-types-for/],
    'a string that is run': [() => void setTimeout(() => { try { new Function('return 1')() } catch { /* likewise */ } }), /policy: (script-src|require-trusted-types-for)/],
    'an image from elsewhere': [() => void document.body.append(Object.assign(new Image(), { src: 'http://canary.invalid/x.png' })), /policy: img-src/],
    'a request to elsewhere': [() => void fetch('http://canary.invalid/').catch(() => {}), /policy: connect-src/],
    'a frame': [() => void document.body.append(Object.assign(document.createElement('iframe'), { src: 'http://canary.invalid/' })), /policy: (frame|child|default)-src/],
    'a file that is missing': [() => void fetch('/assets/none.js').catch(() => {}), /Failed to load resource/],
  }
  for (const [name, [act, told]] of Object.entries(wrongs))
    story(`${name} is told`, async () => {
      await p.goto('/')
      p.check() // the page by itself is clean
      await p.page.evaluate(act)
      await until('it is told', () => p.problems.some((x) => told.test(x)), 5000).catch((e) => assert.fail(`${e.message}: ${JSON.stringify(p.problems)}`))
      assert.throws(() => p.check())
    })

  story('what axe finds is told', async () => {
    await p.goto('/')
    await p.page.evaluate(() => {
      const b = document.createElement('button')
      document.querySelector('main').append(b, Object.assign(new Image(), { src: '/favicon.svg' }))
    })
    await p.accessible('a page with a button without a name')
    assert.ok(p.problems.some((x) => /button-name/.test(x)) && p.problems.some((x) => /image-alt/.test(x)), JSON.stringify(p.problems))
  })
})
