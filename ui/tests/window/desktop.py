#!/usr/bin/python3
"""A desktop's half of the tray and of notifications, for tests: desktop.py PROGRAM [ARGUMENT…]

Owns the names of a status notifier watcher and of a notification service on the session bus, then runs PROGRAM.
Commands are lines of JSON on standard input, answers are lines of JSON on standard output:
  {"do": "menu"}                      labels of the tray's menu, null until there is a tray
  {"do": "click", "label": L}         true if there was such an item
  {"do": "notices"}                   [[id, title, body], …]
  {"do": "act", "id": N}              as a click on the notification
  {"do": "run", "command": [P, …]}    runs it to its end in the same session: its status
  {"do": "output", "command": [P, …]} the same: what it prints
  {"do": "keyring"}                   GNOME's keyring, unlocked: a real Secret Service
  {"do": "leave"}                     takes the keyboard from all windows: without a window manager the one below the
                                      pointer would have it for ever
  {"do": "windows"}                   titles of the windows that can be seen
  {"do": "close", "title": T}         as a click on the window's closing button: true if there was such a window
  {"do": "choose", "path": P}         the next dialog for a file or folder is answered so; null leaves it
  {"do": "asked"}                     [[kind, title], …] of the dialogs that were there
"""
import json
import subprocess
import sys
import time

import dbus
import dbus.lowlevel
import dbus.mainloop.glib
import dbus.service
from gi.repository import GLib
from Xlib import X, display, error, protocol

ITEM = "org.kde.StatusNotifierItem"
MENU = "com.canonical.dbusmenu"
WATCHER = "org.kde.StatusNotifierWatcher"
NOTES = "org.freedesktop.Notifications"
PROPERTIES = "org.freedesktop.DBus.Properties"
PORTAL = "org.freedesktop.portal.Desktop"
CHOOSER = "org.freedesktop.portal.FileChooser"
REQUEST = "org.freedesktop.portal.Request"
PROXIES = "org.freedesktop.portal.ProxyResolver"

dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
bus = dbus.SessionBus()


class Watcher(dbus.service.Object):
    """What the tray's item registers with."""

    item = None

    @dbus.service.method(WATCHER, in_signature="s", sender_keyword="sender")
    def RegisterStatusNotifierItem(self, service, sender=None):
        Watcher.item = (sender, service) if service.startswith("/") else (service, "/StatusNotifierItem")

    @dbus.service.method(WATCHER, in_signature="s")
    def RegisterStatusNotifierHost(self, service):
        pass

    @dbus.service.method(PROPERTIES, in_signature="ss", out_signature="v")
    def Get(self, interface, name):
        return {"IsStatusNotifierHostRegistered": True, "ProtocolVersion": dbus.Int32(0)}.get(name, dbus.Array([], signature="s"))

    @dbus.service.method(PROPERTIES, in_signature="s", out_signature="a{sv}")
    def GetAll(self, interface):
        return {"IsStatusNotifierHostRegistered": True, "ProtocolVersion": dbus.Int32(0)}


class Notes(dbus.service.Object):
    """What notifications are sent to."""

    seen = []

    @dbus.service.method(NOTES, in_signature="susssasa{sv}i", out_signature="u")
    def Notify(self, app, replaces, icon, title, body, actions, hints, timeout):
        Notes.seen.append([len(Notes.seen) + 1, str(title), str(body)])
        return dbus.UInt32(len(Notes.seen))

    @dbus.service.signal(NOTES, signature="us")
    def ActionInvoked(self, note, action):
        pass


class Chooser(dbus.service.Object):
    """The portal that shows dialogs for files: somebody who knows at once what to choose. Whoever goes by portals
    asks it for proxies too."""

    answers = []
    asked = []

    def ask(self, kind, title, options, sender):
        Chooser.asked.append([kind, str(title)])
        token = str(options.get("handle_token", "t"))
        handle = f"/org/freedesktop/portal/desktop/request/{sender[1:].replace('.', '_')}/{token}"
        path = Chooser.answers.pop(0) if Chooser.answers else None
        uris = [] if path is None else [GLib.filename_to_uri(path)]

        def reply():
            # To the asker alone, as a portal does: it has no match rule for it.
            message = dbus.lowlevel.SignalMessage(handle, REQUEST, "Response")
            message.append(dbus.UInt32(path is None), {"uris": dbus.Array(uris, signature="s")}, signature="ua{sv}")
            message.set_destination(sender)
            bus.send_message(message)
            return False

        GLib.timeout_add(50, reply)
        return dbus.ObjectPath(handle)

    @dbus.service.method(CHOOSER, in_signature="ssa{sv}", out_signature="o", sender_keyword="sender")
    def OpenFile(self, parent, title, options, sender=None):
        return self.ask("folder" if options.get("directory") else "file", title, options, sender)

    @dbus.service.method(CHOOSER, in_signature="ssa{sv}", out_signature="o", sender_keyword="sender")
    def SaveFile(self, parent, title, options, sender=None):
        return self.ask("save", title, options, sender)

    @dbus.service.method(PROXIES, in_signature="s", out_signature="as")
    def Lookup(self, uri):
        return ["direct://"]

    @dbus.service.method(PROPERTIES, in_signature="ss", out_signature="v")
    def Get(self, interface, name):
        return dbus.UInt32(3, variant_level=1)

    @dbus.service.method(PROPERTIES, in_signature="s", out_signature="a{sv}")
    def GetAll(self, interface):
        return {"version": dbus.UInt32(3)}


def menu():
    """The menu's items by label, and the menu; none without a tray."""
    if Watcher.item is None:
        return None, None
    name, path = Watcher.item
    item = bus.get_object(name, path, introspect=False)
    where = dbus.Interface(item, PROPERTIES).Get(ITEM, "Menu")
    proxy = dbus.Interface(bus.get_object(name, where, introspect=False), MENU)
    proxy.AboutToShow(0)
    _, (_, _, children) = proxy.GetLayout(0, -1, dbus.Array([], signature="s"))
    items = {}
    for number, about, _ in children:
        label = str(about.get("label", "")).replace("_", "", 1)
        if label and about.get("visible", True):
            items[label] = number
    return items, proxy


def windows(screen):
    """Windows that can be seen and that a desktop would frame, with their titles."""
    for window in screen.screen().root.query_tree().children:
        try:
            if window.get_attributes().map_state == X.IsViewable and window.get_wm_name():
                yield window, window.get_wm_name()
        except error.BadWindow:
            pass  # It has just gone.


def leave():
    """No window has the keyboard."""
    screen = display.Display()
    screen.set_input_focus(X.NONE, X.RevertToNone, X.CurrentTime)
    screen.close()
    return True


def titles():
    screen = display.Display()
    found = [title for _, title in windows(screen)]
    screen.close()
    return found


def close(wanted):
    """Asks a window to close, as a window manager does."""
    screen = display.Display()
    protocols, delete = screen.intern_atom("WM_PROTOCOLS"), screen.intern_atom("WM_DELETE_WINDOW")
    found = [window for window, title in windows(screen) if title == wanted]
    for window in found:
        message = protocol.event.ClientMessage(window=window, client_type=protocols, data=(32, [delete, X.CurrentTime, 0, 0, 0]))
        window.send_event(message)
    screen.close()
    return bool(found)


def keyring():
    """The password, an empty line, makes the login keyring and unlocks it."""
    command = ["gnome-keyring-daemon", "--unlock", "--components=secrets"]
    return subprocess.run(command, input=b"\n", stdout=subprocess.DEVNULL, timeout=120).returncode == 0


def run(command):
    """Runs it to its end. It may ask for what is here: whoever waited for it in here would keep it waiting."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    while process.poll() is None:
        loop.get_context().iteration(False)
        time.sleep(0.01)
    return process.returncode


def answer(request):
    what = request["do"]
    if what == "leave":
        return leave()
    if what == "windows":
        return titles()
    if what == "close":
        return close(request["title"])
    if what == "keyring":
        return keyring()
    if what == "choose":
        Chooser.answers.append(request["path"])
        return True
    if what == "asked":
        return Chooser.asked
    if what == "notices":
        return Notes.seen
    if what == "run":
        return run(request["command"])
    if what == "output":
        return subprocess.run(request["command"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=120, text=True).stdout
    if what == "act":
        notes.ActionInvoked(dbus.UInt32(request["id"]), "default")
        return True
    items, proxy = menu()
    if what == "menu":
        return items and list(items)
    if items and request["label"] in items:
        proxy.Event(items[request["label"]], "clicked", dbus.Int32(0, variant_level=1), dbus.UInt32(0))
        return True
    return False


def line(source, condition):
    text = sys.stdin.readline()
    if not text:
        loop.quit()
        return False
    try:
        reply = answer(json.loads(text))
    except Exception as failure:  # The test has to hear of it, whatever it is.
        reply = {"error": f"{type(failure).__name__}: {failure}"}
    print(json.dumps(reply), flush=True)
    return True


names = [dbus.service.BusName(name, bus) for name in (WATCHER, NOTES, PORTAL)]
watcher = Watcher(bus, "/StatusNotifierWatcher")
notes = Notes(bus, "/org/freedesktop/Notifications")
chooser = Chooser(bus, "/org/freedesktop/portal/desktop")
program = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=sys.stderr)
loop = GLib.MainLoop()
GLib.io_add_watch(sys.stdin, GLib.IO_IN | GLib.IO_HUP, line)
loop.run()
program.terminate()
program.wait()
