// The administrator's pages of the machinery: schedules, queues and events, against a house that really runs them.
import { after, before, describe } from 'node:test'
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { House, root, sleep, until } from './house.mjs'
import { Person, desktop, phone, story } from './people.mjs'

describe('the machinery', () => {
  let house, p
  before(async () => {
    execFileSync('go', ['build', '-o', 'bin/spoil', './test/spoil'], { cwd: root })
    house = await House.start()
    p = await Person.open(house, { size: desktop })
    await p.console('/console/schedules', 'administrator')
    await p.hook('page-schedules').waitFor()
  })
  after(async () => {
    await p?.leave()
    await house?.close(/"msg":"a job is dead"/) // as it should be here
  })

  const kind = 'line.give'
  const schedule = (name) => house.admin.get(`/v1/schedules/${encodeURIComponent(name)}`)
  const jobs = async (q) => (await house.admin.get(`/v1/jobs?${new URLSearchParams(q)}`)).items
  const row = (who, id) => who.page.locator(`[data-test="row"][data-id="${id}"]`)
  const nobody = { sale: 7 } // the arguments of the kind; there is no such sale, so each attempt fails
  /** Writes into the house's tables what only long faults leave there. Gives the number of rows. */
  const spoil = (statement, ...args) => Number(execFileSync(join(root, 'bin', 'spoil'), [join(house.dir, 'data', 'levee.db'), statement, ...args.map(String)], { encoding: 'utf8' }))
  /** A schedule whose jobs cannot be done. */
  const broken = (name, more = {}) => house.admin.post('/v1/schedules', { name, kind, trigger: 'every 24h', args: nobody, ...more })
  const go = async (who, path, page) => {
    await who.page.goto(path)
    await who.hook(page).waitFor()
  }
  /** Lets the next attempt of the schedule's jobs be the last one, and gives them when they lie dead. */
  const die = async (name, n) => {
    const source = `schedule/${name}`
    await until('they have failed', async () => (await jobs({ state: 'later', source })).filter((j) => j.failures.length).length >= n)
    const age = () => spoil('UPDATE job_task SET attempts = 9, due_at = 1 WHERE source = ? AND due_at IS NOT NULL AND attempts < 9', source)
    return until('they are dead', async () => {
      age() // also one that ran just then
      const list = await jobs({ state: 'dead', source })
      return list.length >= n && list
    })
  }
  /** Runs a schedule over the API until its jobs lie dead. */
  const dead = async (name, n = 1) => {
    for (let i = 0; i < n; i++) await house.admin.post(`/v1/schedules/${encodeURIComponent(name)}/runs`)
    return (await die(name, n)).map((j) => j.id)
  }

  story('a schedule is added; what is wrong with its trigger is shown at its place', async () => {
    await p.hook('new-schedule').click()
    await p.hook('submit').click()
    await p.hook('field-error').first().waitFor()
    await p.field('name').fill('shop/evening round')
    await p.field('trigger').fill('cron 30 25 * * *')
    const place = p.hook('trigger-place')
    await place.waitFor()
    assert.equal(await place.getAttribute('data-position'), '9')
    assert.equal(await place.locator('mark').textContent(), '25')
    assert.match(await p.hook('field-trigger').locator('[data-test="field-error"]').textContent(), /character 9/)
    await p.accessible('a trigger with an error')
    await p.shot('machinery-trigger-error')
    await p.field('trigger').fill('cron 30 21 * * * in Europe/Berlin')
    await until('the runs to come are shown', async () => (await p.hook('trigger-means').locator('time').count()) === 5)
    assert.equal(await place.count(), 0)
    await p.field('kind').selectOption(kind)
    await p.field('args').fill('{"sale": ')
    await p.hook('submit').click()
    await p.hook('field-args').locator('[data-test="field-error"]').waitFor()
    await p.field('args').fill('{"sale": 7}')
    await p.field('grace').fill('1.5')
    await p.field('note').fill('<b>made</b> by hand')
    await p.accessible('the form of a schedule')
    await p.hook('submit').click()
    await p.hook('page-schedule').waitFor()
    const made = await schedule('shop/evening round')
    assert.equal(made.trigger, 'cron 30 21 * * * in Europe/Berlin')
    assert.equal(made.grace_ms, 1500)
    assert.deepEqual(made.args, nobody)
    assert.equal(made.next_runs.length, 10)
    await until('the runs to come are listed', async () => (await p.hook('next-runs').locator('li').count()) === 10)
    p.check()
  })

  story('it is paused, resumed and given another trigger', async () => {
    const name = 'shop/evening round'
    await go(p, `/console/schedules/${encodeURIComponent(name)}`, 'page-schedule') // a slash in the name is part of it
    await p.hook('pause').click()
    await p.confirm()
    await until('it is paused', async () => (await schedule(name)).state === 'paused')
    await p.hook('resume').click()
    await p.hook('resume-dialog').waitFor()
    await p.accessible('how to resume')
    await p.hook('resume-dialog').locator('[data-value="pause"]').click()
    await p.hook('submit').click()
    await until('it goes on', async () => (await schedule(name)).state === 'active')
    await p.hook('edit-schedule').click()
    await p.field('trigger').fill('every 90m oops')
    await p.hook('trigger-place').waitFor()
    assert.equal(await p.hook('trigger-place').getAttribute('data-position'), '11')
    await p.hook('submit').click() // the server refuses it
    await p.hook('problem').waitFor()
    assert.equal((await schedule(name)).trigger, 'cron 30 21 * * * in Europe/Berlin')
    await p.field('trigger').fill('every 90m')
    await p.hook('submit').click()
    await until('it has another trigger', async () => /^every 1h30m|^every 90m/.test((await schedule(name)).trigger))
    const now = await schedule(name)
    assert.equal(now.grace_ms, 1500)
    assert.deepEqual(now.args, nobody) // what was left empty stays
    await until('the page shows it', async () => (await p.hook('trigger').textContent()) === now.trigger)
    p.check()
  })

  story('it is run now; its job fails for good, lies dead, and is retried from the page', async () => {
    const name = 'shop/evening round'
    await go(p, `/console/schedules/${encodeURIComponent(name)}`, 'page-schedule')
    await p.hook('run').click()
    await p.confirm()
    await p.hook('given').waitFor()
    await until('the page shows its job', async () => (await p.hook('table-jobs').locator('[data-test="row"]').count()) === 1)
    const [job] = await die(name, 1)
    await until('the page shows it', async () => (await row(p, job.id).locator('[data-state="dead"]').count()) === 1)
    assert.equal((await schedule(name)).fired, 1)

    await go(p, '/console/queues?state=dead', 'page-queues')
    await row(p, job.id).waitFor()
    await until('the tile counts it', async () => (await p.hook('queue-dead').textContent()) === '1')
    await until('the kind counts it', async () => (await row(p, kind).locator('[data-test="count-dead"]').textContent()) === '1')
    await p.accessible('the queue with a dead job')
    await p.shot('machinery-queues-dead', { fullPage: true })
    await row(p, job.id).locator('[data-test="retry"]').click()
    await p.confirm()
    await until('it runs again, with all its attempts', async () => {
      const now = await house.admin.get(`/v1/jobs/${job.id}`)
      return now.state === 'later' && now.attempts < 9 && now.failures.length > 0
    })
    await until('it left the list', async () => (await row(p, job.id).count()) === 0)
    await until('it counts as one to be tried again', async () => (await p.hook('queue-retrying').textContent()) === '1')
    await die(name, 1)
    await row(p, job.id).locator('[data-test="row-link"]').click()
    await p.hook('page-job').waitFor()
    await p.hook('failure').first().waitFor()
    assert.match(await p.hook('failure').first().textContent(), /there is no such sale/)
    assert.match(await p.hook('args').textContent(), /"sale": 7/)
    await p.accessible('a dead job')
    await p.shot('machinery-job-dead', { fullPage: true })
    // Once more from here; the trail has each of the two.
    await p.hook('retry').click()
    await p.confirm()
    await until('it is not dead', async () => (await house.admin.get(`/v1/jobs/${job.id}`)).state !== 'dead')
    assert.equal((await house.admin.get('/v1/audit?action=job.retry')).items.length, 2)
    p.check()
  })

  story('all dead jobs that are shown are retried', async () => {
    await broken('many/broken', { max_live: -1 })
    const ids = await dead('many/broken', 3)
    assert.equal(ids.length, 3)
    await go(p, `/console/queues?state=dead&source=${encodeURIComponent('schedule/many/broken')}`, 'page-queues')
    await until('all are listed', async () => (await p.hook('table-jobs').locator('[data-test="row"]').count()) === 3)
    await p.hook('retry-all').click()
    await p.confirm()
    await until('none is dead', async () => (await Promise.all(ids.map((id) => house.admin.get(`/v1/jobs/${id}`)))).every((j) => j.state !== 'dead'))
    assert.equal((await house.admin.get('/v1/audit?action=job.retry&limit=100')).items.length, 5)
    p.check()
  })

  story('a kind is paused, what is given waits and is cancelled, and the kind goes on', async () => {
    await broken('held/one')
    await go(p, '/console/queues', 'page-queues')
    const paused = async () => (await house.admin.get('/v1/job-queue')).kinds.find((k) => k.name === kind).paused
    await row(p, kind).locator('[data-test="pause-jobs"]').click()
    await p.confirm()
    await until('it is paused', paused)
    await row(p, kind).locator('[data-state="paused"]').waitFor()
    await sleep(1100) // every node knows
    const { job } = await house.admin.post('/v1/schedules/held%2Fone/runs')
    await row(p, job).waitFor() // by itself, without a reload
    assert.equal((await house.admin.get(`/v1/jobs/${job}`)).state, 'waiting')
    await until('it is counted', async () => Number(await row(p, kind).locator('[data-test="count-waiting"]').textContent()) >= 1) // others may have come due
    await p.hook('field-by').locator('select').selectOption('lane')
    await p.hook('table-counts').getByText(kind).first().waitFor()
    await p.accessible('the lanes')
    await p.hook('field-by').locator('select').selectOption('kind')
    await row(p, job).locator('[data-test="cancel"]').click()
    await p.confirm()
    await until('it left', async () => house.admin.get(`/v1/jobs/${job}`).then((j) => j.state === 'cancelled', (e) => e.status === 404))
    await row(p, kind).locator('[data-test="resume-jobs"]').click()
    await until('it goes on', async () => !(await paused()))
    await p.hook('field-by').locator('select').selectOption('pool')
    await row(p, 'line').locator('[data-test="pause-jobs"]').click()
    await p.confirm()
    await until('the pool is paused', async () => (await house.admin.get('/v1/job-queue')).pools.find((x) => x.name === 'line').paused)
    await row(p, 'line').locator('[data-test="resume-jobs"]').click()
    await until('the pool goes on', async () => !(await house.admin.get('/v1/job-queue')).pools.find((x) => x.name === 'line').paused)
    p.check()
  })

  story('the plot of rates follows what is given', async () => {
    await broken('rate/one', { max_live: -1 })
    await go(p, '/console/queues', 'page-queues')
    const label = () => p.hook('plot-rates').locator('[role="img"]').getAttribute('aria-label')
    for (let i = 0; i < 20; i++) await house.admin.post('/v1/schedules/rate%2Fone/runs')
    await until('the plot knows of some given and failed', async () => {
      await p.hook('refresh').click()
      const text = await label()
      return [/Given: now [^,]+, highest (\d+(?:\.\d+)?)/, /Failed: now [^,]+, highest (\d+(?:\.\d+)?)/].every((r) => Number(r.exec(text)?.[1]) > 0)
    })
    p.check()
  })

  story('a page that is not seen asks nothing, and asks at once when it is seen again', async () => {
    await go(p, '/console/queues', 'page-queues')
    let asked = 0
    const count = (r) => void (/\/v1\/(job-queue|jobs)/.test(r.url()) && asked++)
    p.page.on('request', count)
    const hide = (is) =>
      p.page.evaluate((hidden) => {
        Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden })
        document.dispatchEvent(new Event('visibilitychange'))
      }, is)
    await until('it asks by itself', () => asked >= 2)
    await hide(true)
    await sleep(500) // what is under way comes to its end
    asked = 0
    await sleep(4000)
    assert.equal(asked, 0)
    await hide(false)
    await until('it asks again', () => asked >= 2, 1000)
    p.page.off('request', count)
    p.check()
  })

  story('schedules are found by their beginning, page by page, and removed', async () => {
    for (let i = 10; i < 35; i++) await house.admin.post('/v1/schedules', { name: `page/${i}`, kind, trigger: 'every 24h', paused: true })
    await go(p, '/console/schedules', 'page-schedules')
    await p.field('prefix').fill('page/')
    await p.hook('search').click()
    await row(p, 'page/10').waitFor()
    assert.equal(await p.hook('table-schedules').locator('[data-test="row"]').count(), 20)
    await p.hook('next-page').click()
    await row(p, 'page/34').waitFor()
    assert.equal(await p.hook('table-schedules').locator('[data-test="row"]').count(), 5)
    await p.hook('previous-page').click()
    await row(p, 'page/10').waitFor()
    await p.field('prefix').fill('nobody/')
    await p.hook('search').click()
    await p.hook('empty').waitFor()
    await go(p, `/console/schedules/${encodeURIComponent('page/10')}`, 'page-schedule')
    await p.hook('remove').click()
    await p.confirm()
    await p.hook('page-schedules').waitFor()
    await until('it is gone', () => schedule('page/10').then(() => false, (e) => e.status === 404))
    await go(p, `/console/schedules/${encodeURIComponent('page/10')}`, 'page-schedule')
    await p.hook('problem').waitFor() // said, not broken
    p.check()
  })

  story('listeners show their lag; a replay says what it does before it is done', async () => {
    await go(p, '/console/events', 'page-events')
    const { items } = await house.admin.get('/v1/event-listeners')
    assert.ok(items.length > 0)
    for (const l of items) await row(p, l.name).waitFor()
    await p.accessible('the listeners')
    await row(p, items[0].name).locator('[data-test="row-link"]').click()
    await p.hook('page-listener').waitFor()
    await p.hook('replay').click()
    const effect = p.hook('replay-effect')
    await effect.waitFor()
    assert.match(await effect.textContent(), /not undone/)
    await p.accessible('the question before a replay')
    await p.shot('machinery-replay')
    await p.hook('submit').click()
    // This house keeps no events: the server refuses, and the dialog says so and stays.
    await p.hook('nothing-kept').waitFor()
    await p.hook('problem').waitFor()
    await p.hook('replay-no').click()
    p.check()
  })

  story('events that were kept are replayed, and the page says from where to where', async () => {
    const keeps = await House.start({ event: { kept: 'order.*' } })
    const who = await Person.open(keeps, { size: desktop })
    try {
      const sale = await keeps.sale({ token_needed: false })
      for (const c of await keeps.customers(3)) await c.post(`/v1/sales/${sale.id}/purchases`, { quantity: 1 })
      const one = (await keeps.admin.get('/v1/event-listeners')).items.find((l) => l.events.some((e) => e.startsWith('order.created')))
      const at = async () => (await keeps.admin.get('/v1/event-listeners')).items.find((l) => l.name === one.name)
      await until('the orders were heard', async () => (await at()).waiting === 0)
      await who.console('/console/events', 'administrator')
      await go(who, `/console/events/${encodeURIComponent(one.name)}`, 'page-listener')
      await who.hook('replay').click()
      assert.equal(await who.hook('nothing-kept').count(), 0)
      await who.hook('submit').click()
      const said = who.page.locator('.el-message--success')
      await said.waitFor()
      assert.match(await said.innerText(), /\d+.*\d+/)
      await who.hook('replay-dialog').waitFor({ state: 'hidden' })
      await until('all was given once more', async () => !(await at()).replay)
      assert.equal((await keeps.admin.get('/v1/audit?action=listener.replay')).items.length, 1)
      who.check()
    } finally {
      await who.leave()
      await keeps.close()
    }
  })

  story('a parked event is shown without what is secret in it, retried and discarded', async () => {
    const { items: listeners } = await house.admin.get('/v1/event-listeners')
    const one = listeners.find((l) => l.name === 'line.order_paid')
    // Two deliveries that were given up, as a listener that failed twelve times leaves them; it cannot read them now either.
    for (const id of [501, 502])
      spoil('INSERT INTO event_parked (event_id, listener, name, event_key, payload, attempts, error, parked_at) VALUES (?, ?, ?, 7, ?, 12, ?, ?)',
        id, one.name, one.events[0], JSON.stringify({ Order: 'no number', token: 'hush-hush', order: 'none' }), 'the listener was ill', Date.now() * 1000)
    await go(p, `/console/events/${encodeURIComponent(one.name)}`, 'page-listener')
    const rows = p.hook('table-parked').locator('[data-test="row"]')
    await until('both are listed', async () => (await rows.count()) === 2)
    await rows.first().locator('summary').click()
    const payload = await p.hook('payload').first().textContent()
    assert.match(payload, /no number/)
    assert.doesNotMatch(payload, /hush-hush/)
    await p.accessible('parked events')
    await p.shot('machinery-parked', { fullPage: true })
    const left = async () => (await house.admin.get(`/v1/parked-events?listener=${encodeURIComponent(one.name)}`)).items
    await rows.first().locator('[data-test="discard"]').click()
    await p.confirm()
    await until('one is discarded', async () => (await left()).length === 1)
    await until('the page shows one', async () => (await rows.count()) === 1)
    await rows.first().locator('[data-test="retry"]').click()
    await p.hook('confirm').waitFor()
    await p.hook('confirm-yes').click()
    // It fails again and stays, and the dialog says why.
    await p.hook('problem').waitFor()
    assert.match(await p.hook('problem').textContent(), /it failed again/)
    assert.equal((await left()).length, 1)
    assert.equal((await house.admin.get('/v1/audit?action=event.retry')).items.length, 1)
    await p.page.keyboard.press('Escape')
    p.check()
  })

  story('a job that runs shows how far it is', async () => {
    await broken('long/broken')
    await house.admin.post('/v1/schedules/long%2Fbroken/runs')
    const [job] = await until('it waits for its next attempt', async () => {
      const list = await jobs({ state: 'later', source: 'schedule/long/broken' })
      return list.length > 0 && list
    })
    // As a process that has just been paused leaves it: it runs, and nobody counts on.
    const progress = JSON.stringify({ done: 3, total: 8, text: 'three of eight <pages>' })
    assert.equal(spoil('UPDATE job_task SET due_at = NULL, lease_until = ?, progress = ? WHERE source = ? AND due_at IS NOT NULL', (Date.now() + 60_000) * 1000, progress, 'schedule/long/broken'), 1)
    await go(p, `/console/jobs/${job.id}`, 'page-job')
    const bar = p.hook('progress').getByRole('progressbar').or(p.hook('progress'))
    await until('the bar shows three of eight', async () => (await bar.first().getAttribute('aria-valuenow')) === '38')
    await p.page.getByText('three of eight <pages>').waitFor()
    await p.accessible('a job under way')
    // Its lease is over soon, and it is taken back.
    await until('it runs again', async () => (await jobs({ state: 'later', source: 'schedule/long/broken' })).length > 0, 40_000)
    p.check()
  })

  story('both languages, on a phone and wide: nothing scrolls sideways, axe finds nothing, no key is shown', async () => {
    await broken('shown/broken')
    const [id] = await dead('shown/broken')
    const { items: listeners } = await house.admin.get('/v1/event-listeners')
    const pages = [
      ['/console/schedules', 'page-schedules'],
      [`/console/schedules/${encodeURIComponent('many/broken')}`, 'page-schedule'],
      ['/console/queues?state=dead', 'page-queues'],
      [`/console/jobs/${id}`, 'page-job'],
      ['/console/events', 'page-events'],
      [`/console/events/${encodeURIComponent(listeners[0].name)}`, 'page-listener'],
    ]
    const keys = /\b(schedule|queue|job|events|status|word|nav|field|act)\.[a-zA-Z]+\b/
    for (const [size, language, theme] of [[phone, 'zh', 'light'], [desktop, 'zh', 'dark'], [phone, 'en', 'dark'], [desktop, 'en', 'light']]) {
      const who = await Person.open(house, { size, language, theme })
      await who.console('/console/schedules', 'administrator')
      for (const [path, page] of pages) {
        who.at = `${path} ${language}`
        await go(who, path, page)
        await sleep(size === desktop && /queues|events/.test(path) ? 3300 : 300) // a second point for the plots
        assert.equal(await who.page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), true, `${path} scrolls sideways (${language}, ${size.width})`)
        const text = await who.page.locator('main').innerText()
        assert.doesNotMatch(text.replaceAll(/line\.\w+|\w+\.v\d/g, ''), keys)
        if (language === 'zh') assert.match(text, /[\u4e00-\u9fff]/)
        await who.accessible(`${path} (${language}, ${theme})`)
        await who.shot(`machinery-${page}-${size === phone ? 'phone' : 'desktop'}-${language}`, { fullPage: true })
      }
      await who.close()
    }
  })

  story('by the keyboard alone: a schedule is opened and paused', async () => {
    const name = 'many/broken'
    await go(p, '/console/schedules?prefix=many', 'page-schedules')
    await row(p, name).locator('[data-test="row-link"]').focus()
    await p.page.keyboard.press('Enter')
    await p.hook('page-schedule').waitFor()
    await p.hook('pause').focus()
    await p.page.keyboard.press('Enter')
    await p.hook('confirm').waitFor()
    await p.hook('confirm-yes').focus()
    await p.page.keyboard.press('Enter')
    await until('it is paused', async () => (await schedule(name)).state === 'paused')
    p.check()
  })

  story('an operator who is no administrator sees none of it', async () => {
    const who = await Person.open(house, { size: desktop })
    await who.console('/console/')
    for (const name of ['schedules', 'queues', 'events']) {
      assert.equal(await who.hook(`nav-${name}`).count(), 0)
      await go(who, `/console/${name}`, 'page-forbidden')
    }
    await who.close()
  })
})
