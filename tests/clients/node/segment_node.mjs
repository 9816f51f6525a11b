// A program that uses @segment/analytics-node as people do, and writes down what the SDK told it.
//
//     node segment_node.mjs HOST OUTPUT COUNT PAUSE_MS

import { writeFileSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'
import { Analytics } from '@segment/analytics-node'

const [host, output, count, pauseMs] = process.argv.slice(2)
const TEXTS = ['plain', 'Blåbærsyltetøy', '日本語', '😀 👩‍👩‍👧', 'half \ud83d', 'nul \u0000!', '"\\/\n\t{}[]']

const sent = []
const failed = []
const analytics = new Analytics({ writeKey: 'demo', host, flushInterval: 200 })
analytics.on('error', (error) => failed.push(String(error.reason ?? error.code ?? error)))

const done = (error, context) => {
  if (error) failed.push(String(error))
  // The SDK's own words: what it says of the event when it has delivered it.
  else sent.push(JSON.parse(JSON.stringify(context.event)))
}

for (let n = 1; n <= Number(count); n++) {
  const text = TEXTS[n % 7]
  const common = {
    ...(n % 4 ? { timestamp: new Date(Date.UTC(2020, 1, 29, 21, 59, n % 60, n % 1000)) } : {}),
    ...(n % 8 === 1 ? { messageId: `mine-${n}` } : {}),
    ...(n % 6 ? {} : { integrations: { All: false, Mixpanel: { n } } }),
    ...(n % 3 ? {} : { context: { ip: '203.0.113.7', n, text } }),
  }
  const who = n % 5 ? { userId: `user-${n % 17}` } : { anonymousId: `anon-${n % 17}` }
  const properties = {
    n,
    text,
    big: 2 ** 53 + 2 * n,
    huge: 1e21,
    small: 1.5e-7,
    nan: NaN,
    list: [Infinity, null, true, [], {}, '', undefined],
    when: new Date(Date.UTC(2026, 0, 2, 3, 4, 5)),
    gone: undefined,
    nested: { 'å': { b: [{ c: n }] } },
    ...(n === 100 ? { pad: 'x'.repeat(200_000) } : {}),
  }
  switch (n % 9) {
    case 0:
      analytics.identify({ ...who, traits: { email: `u${n}@example.com`, n }, ...common }, done)
      break
    case 1:
      analytics.page({ ...who, name: 'Page', category: 'Docs', properties, ...common }, done)
      break
    case 2:
      analytics.screen({ ...who, name: text, properties, ...common }, done)
      break
    case 3:
      analytics.group({ ...who, groupId: `group-${n}`, traits: { n }, ...common }, done)
      break
    case 4:
      analytics.alias({ userId: `user-${n}`, previousId: `anon-${n}`, ...common }, done)
      break
    default:
      analytics.track({ ...who, event: `Event ${text}`, properties, ...common }, done)
  }
  if (n % 15 === 0 && Number(pauseMs)) await pause(Number(pauseMs))
}
await analytics.closeAndFlush()
writeFileSync(output, JSON.stringify({ sent, failed }))
