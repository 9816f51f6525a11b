// What a shop with a bundler has: the package's own entry, and nothing else.
import { AnalyticsBrowser } from '@segment/analytics-next'

window.AnalyticsBrowser = AnalyticsBrowser
