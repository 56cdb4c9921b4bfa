; The installer for Windows, by Inno Setup 6:  iscc /DVersion=0.1.0 packaging\windows\gliascope.iss
; Takes dist\gliascope, which `python start.py build` makes, and writes dist\gliascope-VERSION-setup.exe.
; For one user by default, so that nobody has to ask an administrator.

#ifndef Version
  #error Say which version: /DVersion=0.1.0
#endif

[Setup]
AppId={{6E0A7F0C-52E1-4B53-9C0F-3B0C6F1B7D51}
AppName=Gliascope
AppVersion={#Version}
AppVerName=Gliascope {#Version}
VersionInfoVersion={#Version}
DefaultDirName={autopf}\Gliascope
DefaultGroupName=Gliascope
DisableProgramGroupPage=yes
PrivilegesRequired=lowest
PrivilegesRequiredOverridesAllowed=dialog
ArchitecturesAllowed=x64compatible
ArchitecturesInstallIn64BitMode=x64compatible
MinVersion=10.0.17763
LicenseFile=..\..\LICENSE
OutputDir=..\..\dist
OutputBaseFilename=gliascope-{#Version}-setup
SetupIconFile=..\icons\gliascope.ico
UninstallDisplayIcon={app}\gliascope.exe
Compression=lzma2/normal
SolidCompression=yes
WizardStyle=modern
ChangesAssociations=yes
; A Gliascope that is open is asked to close rather than left with half of its files replaced.
CloseApplications=yes

[Languages]
Name: "en"; MessagesFile: "compiler:Default.isl"

[Tasks]
Name: "desktopicon"; Description: "Put an icon on the desktop"; Flags: unchecked
Name: "nifti"; Description: "Open .nii files with Gliascope"; Flags: unchecked

[InstallDelete]
; What an older version brought and this one does not.
Type: filesandordirs; Name: "{app}\_internal"

[Files]
Source: "..\..\dist\gliascope\*"; DestDir: "{app}"; Flags: recursesubdirs createallsubdirs ignoreversion

[Icons]
Name: "{autoprograms}\Gliascope"; Filename: "{app}\gliascope.exe"
Name: "{autodesktop}\Gliascope"; Filename: "{app}\gliascope.exe"; Tasks: desktopicon

[Registry]
; Cases are Gliascope's own.
Root: HKA; Subkey: "Software\Classes\.gliascope"; ValueType: string; ValueData: "Gliascope.Case"; Flags: uninsdeletevalue
Root: HKA; Subkey: "Software\Classes\Gliascope.Case"; ValueType: string; ValueData: "Gliascope case"; Flags: uninsdeletekey
Root: HKA; Subkey: "Software\Classes\Gliascope.Case\DefaultIcon"; ValueType: string; ValueData: "{app}\gliascope.exe,0"
Root: HKA; Subkey: "Software\Classes\Gliascope.Case\shell\open\command"; ValueType: string; ValueData: """{app}\gliascope.exe"" ""%1"""
; Scans are offered under "Open with"; as the usual program only where that was asked for. Windows looks at the last
; part of a name alone, so .nii.gz is offered as one of the kinds of .gz and never taken over.
Root: HKA; Subkey: "Software\Classes\Gliascope.Scan"; ValueType: string; ValueData: "NIfTI image"; Flags: uninsdeletekey
Root: HKA; Subkey: "Software\Classes\Gliascope.Scan\DefaultIcon"; ValueType: string; ValueData: "{app}\gliascope.exe,0"
Root: HKA; Subkey: "Software\Classes\Gliascope.Scan\shell\open\command"; ValueType: string; ValueData: """{app}\gliascope.exe"" ""%1"""
Root: HKA; Subkey: "Software\Classes\.nii\OpenWithProgids"; ValueType: string; ValueName: "Gliascope.Scan"; ValueData: ""; Flags: uninsdeletevalue
Root: HKA; Subkey: "Software\Classes\.gz\OpenWithProgids"; ValueType: string; ValueName: "Gliascope.Scan"; ValueData: ""; Flags: uninsdeletevalue
Root: HKA; Subkey: "Software\Classes\.nii"; ValueType: string; ValueData: "Gliascope.Scan"; Flags: uninsdeletevalue; Tasks: nifti

[Run]
Filename: "{app}\gliascope.exe"; Description: "Open Gliascope"; Flags: nowait postinstall skipifsilent
